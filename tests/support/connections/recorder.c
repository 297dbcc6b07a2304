/* Writes down every address that a process and its children connect or send to, one a line, into
   CONNECTIONS_LOG. Preloaded; see __init__.py. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const struct sockaddr *to)
{
    char text[INET6_ADDRSTRLEN] = "", line[INET6_ADDRSTRLEN + 16];
    const char *log = getenv("CONNECTIONS_LOG");
    unsigned port = 0;
    if (!to || !log)
        return;
    if (to->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const void *)to;
        inet_ntop(AF_INET, &four->sin_addr, text, sizeof text);
        port = ntohs(four->sin_port);
    } else if (to->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const void *)to;
        inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text);
        port = ntohs(six->sin6_port);
    } else
        return;
    int length = snprintf(line, sizeof line, "%s %u\n", text, port);
    int file = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file >= 0) {
        if (write(file, line, length) < 0)
            abort();
        close(file);
    }
}

int connect(int fd, const struct sockaddr *to, socklen_t length)
{
    static int (*next)(int, const struct sockaddr *, socklen_t);
    if (!next)
        next = dlsym(RTLD_NEXT, "connect");
    note(to);
    return next(fd, to, length);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    static ssize_t (*next)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    if (!next)
        next = dlsym(RTLD_NEXT, "sendto");
    note(to);
    return next(fd, data, size, flags, to, length);
}
