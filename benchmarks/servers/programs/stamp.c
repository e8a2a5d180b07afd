/* Preloaded into a server (LD_PRELOAD): when did its own listen(2) return? For UDP, its bind(2).
 *
 * Each success adds a line "tcp|udp PORT NANOSECONDS" (monotonic clock) to the file named by
 * PORTLEASE_STAMP. What makes system calls itself (Go, static programs) is not seen.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void stamp(int fd, const char *transport)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int before = errno;
    const char *path = getenv("PORTLEASE_STAMP");
    struct sockaddr_storage here = {0};
    socklen_t size = sizeof here;
    if (path && !getsockname(fd, (struct sockaddr *)&here, &size)
        && (here.ss_family == AF_INET || here.ss_family == AF_INET6)) {
        int port = ntohs(((struct sockaddr_in *)&here)->sin_port); /* the same place in IPv6's */
        int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
        if (file >= 0) {
            dprintf(file, "%s %d %lld\n", transport, port,
                    now.tv_sec * 1000000000LL + now.tv_nsec);
            close(file);
        }
    }
    errno = before;
}

int listen(int fd, int backlog)
{
    int (*next)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "listen");
    int result = next(fd, backlog);
    if (!result)
        stamp(fd, "tcp");
    return result;
}

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    int (*next)(int, const struct sockaddr *, socklen_t) =
        (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
    int result = next(fd, address, size), type = 0;
    socklen_t room = sizeof type;
    if (!result && !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &room) && type == SOCK_DGRAM)
        stamp(fd, "udp");
    return result;
}
