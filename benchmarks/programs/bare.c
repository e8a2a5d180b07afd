/* The system calls of a default lease, taken and given back, as bare as they can be.
 *
 * Reads lines of port numbers, and answers each with the nanoseconds that all of its ports took.
 * The calls are those of BARE_CALLS in lease_cost.py.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4096 };

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void check(int result, int allowed, const char *what)
{
    if (result < 0 && errno != allowed) {
        perror(what);
        exit(1);
    }
}

/* An abstract name: its first byte is NUL, and its length is told by that of the address. */
static socklen_t name(struct sockaddr_un *address, const char *form, int port)
{
    address->sun_family = AF_UNIX;
    address->sun_path[0] = 0;
    int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, form, port);
    return offsetof(struct sockaddr_un, sun_path) + 1 + length;
}

static void take_and_give_back(int port)
{
    struct sockaddr_un shown, guard;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    socklen_t shown_length = name(&shown, "benchmark/2/%d/t/o/1234567/effffffc/19a0f3c2b1d/*/", port);
    socklen_t guard_length = name(&guard, "benchmark/2/g/tcp/%d", port);
    int off = 0, on = 1;

    int row = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    check(row, 0, "socket");
    check(bind(row, (struct sockaddr *)&shown, shown_length), 0, "bind of the row");
    check(connect(row, (struct sockaddr *)&guard, guard_length), ECONNREFUSED, "connect");
    int hold = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(hold, 0, "socket");
    check(setsockopt(hold, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off), 0, "setsockopt");
    /* In use: somebody came since the port was found free. */
    check(bind(hold, (struct sockaddr *)&any, sizeof any), EADDRINUSE, "bind of the hold");
    check(connect(row, (struct sockaddr *)&guard, guard_length), ECONNREFUSED, "connect");
    check(setsockopt(hold, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0, "setsockopt");
    close(row);
    close(hold);
}

int main(void)
{
    static char line[MOST * 6];
    static int ports[MOST];
    while (fgets(line, sizeof line, stdin)) {
        int count = 0;
        for (char *word = strtok(line, " \n"); word && count < MOST; word = strtok(NULL, " \n"))
            ports[count++] = atoi(word);
        long long start = now();
        for (int i = 0; i < count; i++)
            take_and_give_back(ports[i]);
        printf("%lld\n", now() - start);
        fflush(stdout);
    }
    return 0;
}
