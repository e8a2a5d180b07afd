/* The adversary: a tight loop that binds exactly the port it was told, until it has it.
 *
 * On its input: "tcp|udp plain|reuse PORT" begins, an empty line ends. It answers "loops" once its
 * first attempt is over, and at the end "stolen N" or "none N" with the number of its attempts.
 * With "reuse" it sets SO_REUSEADDR, and a TCP port counts as stolen only once it listens.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ATTEMPTS_BETWEEN_LOOKS = 16 };

static int take(int udp, int reuse, int port)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int loot = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (loot < 0)
        return -1;
    if (reuse)
        setsockopt(loot, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
    if (bind(loot, (struct sockaddr *)&here, sizeof here) || (reuse && !udp && listen(loot, 16))) {
        close(loot);
        return -1;
    }
    return loot;
}

static int told_to_stop(int wait_ms)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, wait_ms) > 0;
}

int main(void)
{
    char line[64], transport[8], manner[8];
    int port;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%7s %7s %d", transport, manner, &port) != 3)
            return 2;
        int udp = !strcmp(transport, "udp"), reuse = !strcmp(manner, "reuse");
        unsigned long attempts = 1;
        int loot = take(udp, reuse, port);
        printf("loops\n");
        fflush(stdout);
        while (loot < 0 && (attempts % ATTEMPTS_BETWEEN_LOOKS || !told_to_stop(0))) {
            loot = take(udp, reuse, port);
            attempts++;
        }
        if (loot >= 0)
            told_to_stop(-1);
        if (!fgets(line, sizeof line, stdin))
            break;
        printf("%s %lu\n", loot >= 0 ? "stolen" : "none", attempts);
        fflush(stdout);
        if (loot >= 0)
            close(loot);
    }
    return 0;
}
