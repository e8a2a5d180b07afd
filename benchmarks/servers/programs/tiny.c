/* The smallest server: what 2,000 starts are made of.
 *
 *   tiny tcp|udp reuse|plain PORT     binds 127.0.0.1:PORT, with SO_REUSEADDR or without
 *   tiny tcp|udp fd NUMBER            uses the socket that it inherited
 *
 * It answers every client with "portlease-matrix". It says "listens" on its output, and writes the monotonic clock (nanoseconds) to
 * the file named by PORTLEASE_STAMP once listen(2) (UDP: bind(2)) has returned, as stamp.c does.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char answer[] = "portlease-matrix\n";

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static void stamp(int server, const char *transport)
{
    const char *path = getenv("PORTLEASE_STAMP");
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct sockaddr_in here = {0};
    socklen_t size = sizeof here;
    getsockname(server, (struct sockaddr *)&here, &size);
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT, 0666) : -1;
    if (file >= 0) {
        dprintf(file, "%s %d %lld\n", transport, ntohs(here.sin_port),
                now.tv_sec * 1000000000LL + now.tv_nsec);
        close(file);
    }
}

int main(int count, char **words)
{
    if (count != 4) {
        fprintf(stderr, "usage: tiny tcp|udp reuse|plain|fd NUMBER\n");
        return 2;
    }
    int udp = !strcmp(words[1], "udp"), number = atoi(words[3]), server = number, on = 1;
    if (strcmp(words[2], "fd")) {
        struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(number)};
        here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        server = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
        if (server < 0)
            return fail("socket");
        if (!strcmp(words[2], "reuse"))
            setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(server, (struct sockaddr *)&here, sizeof here))
            return fail("bind");
    }
    if (!udp && listen(server, 128))
        return fail("listen");
    stamp(server, words[1]);
    puts("listens");
    fflush(stdout);
    for (;;) {
        struct sockaddr_storage from;
        socklen_t size = sizeof from;
        char question[2048];
        if (udp) {
            if (recvfrom(server, question, sizeof question, 0, (struct sockaddr *)&from, &size) < 0)
                return fail("recvfrom");
            if (sendto(server, answer, sizeof answer - 1, 0, (struct sockaddr *)&from, size) < 0)
                perror("sendto");
        } else {
            int client = accept(server, NULL, NULL);
            if (client < 0)
                return fail("accept");
            if (write(client, answer, sizeof answer - 1) < 0)
                perror("write");
            close(client);
        }
    }
}
