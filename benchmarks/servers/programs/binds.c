/* What do bind(2) and listen(2) cost? binds PORT COUNT, which listens on 127.0.0.1:PORT in the end.
 *
 * COUNT times: a socket bound to PORT and listening, and one bound to port 0, each closed again.
 * Then it writes the nanoseconds, one line a turn: bind, listen, bind(0), getpid; and "done".
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct turn { long long bind, listen, other, getpid; };

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int fail(const char *what)
{
    perror(what);
    exit(1);
}

static int bound(int port, long long *took)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    long long start = now();
    int result = bind(server, (struct sockaddr *)&here, sizeof here);
    *took = now() - start;
    return result ? fail("bind") : server;
}

int main(int words, char **word)
{
    int port = words == 3 ? atoi(word[1]) : 0, count = words == 3 ? atoi(word[2]) : 0;
    struct turn *turns = calloc(count, sizeof *turns);
    long long unused;
    if (!port || !count || !turns)
        return fail("usage: binds PORT COUNT");
    for (int i = 0; i < count; i++) {
        int server = bound(port, &turns[i].bind);
        long long start = now();
        if (listen(server, 16))
            fail("listen");
        turns[i].listen = now() - start;
        close(server);
        close(bound(0, &turns[i].other));
        start = now();
        syscall(SYS_getpid);
        turns[i].getpid = now() - start;
    }
    int server = bound(port, &unused);
    if (listen(server, 16))
        fail("listen");
    for (int i = 0; i < count; i++)
        printf("%lld %lld %lld %lld\n", turns[i].bind, turns[i].listen, turns[i].other,
               turns[i].getpid);
    puts("done");
    fflush(stdout);
    for (;;)
        pause();
}
