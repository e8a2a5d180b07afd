#!/bin/sh
# A suite as many are: a server in the background, on the port that its author happened to like.
# It tells its results in TAP; perl is the server and the client.
port=8082

perl -MIO::Socket::INET -e '
    my $server = IO::Socket::INET->new(
        LocalAddr => "127.0.0.1", LocalPort => shift, Listen => 5, ReuseAddr => 1,
    ) or die "server: $!\n";
    print "ready\n";
    close STDOUT;
    my $count = 0;
    while (my $client = $server->accept) { print {$client} ++$count, "\n"; close $client }
' "$port" >"$TMPDIR/server.out" &
server=$!
trap 'kill "$server" 2>/dev/null' EXIT

# Until it says that it listens, or is gone.
until [ -s "$TMPDIR/server.out" ] || ! kill -0 "$server" 2>/dev/null; do sleep 0.02; done

ask() {
    perl -MIO::Socket::INET -e '
        my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => shift, Timeout => 5)
            or die "client: $!\n";
        print <$socket>;
    ' "$port"
}

failed=0
echo 1..20
for expected in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    if [ "$(ask)" = "$expected" ]; then
        echo "ok $expected - counts to $expected"
    else
        echo "not ok $expected - counts to $expected"
        failed=1
    fi
done
exit "$failed"
