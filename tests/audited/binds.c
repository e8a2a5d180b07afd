/* Binds what its arguments say, and prints a line for each: the port it got, or why not.
 *
 *   t8080   TCP on 127.0.0.1, and listen       u8080   UDP
 *   r8080   the same with SO_REUSEADDR         a8080   TCP on every interface, and listen
 *   f8080   as t, in a forked child            c8080   as t, and close it again
 *
 * It ends with status 7 once it has read to the end of its standard input.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void bind_one(char kind, int port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    socklen_t size = sizeof address;
    int on = 1, fd = socket(AF_INET, kind == 'u' ? SOCK_DGRAM : SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(kind == 'a' ? INADDR_ANY : INADDR_LOOPBACK);
    if (kind == 'r')
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, size) < 0) {
        printf("%s\n", strerror(errno));
    } else {
        getsockname(fd, (struct sockaddr *)&address, &size);
        printf("%d\n", ntohs(address.sin_port));
        if (kind != 'u' && kind != 'c')
            listen(fd, 5);
    }
    fflush(stdout);
    if (kind == 'c')
        close(fd);
}

int main(int count, char **words)
{
    char buffer[256];

    for (int i = 1; i < count; i++) {
        if (words[i][0] != 'f') {
            bind_one(words[i][0], atoi(words[i] + 1));
        } else if (fork() == 0) {
            bind_one('t', atoi(words[i] + 1));
            _exit(0);
        } else {
            wait(NULL);
        }
    }
    while (read(0, buffer, sizeof buffer) > 0)
        ;
    return 7;
}
