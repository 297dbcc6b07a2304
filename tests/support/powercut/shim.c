/* Cuts the power of a device under test: preloaded into all of its processes (LD_PRELOAD), it counts every call
 * that changes something below one folder, over all processes together, and kills the process group at the
 * N-th, before the call takes effect.
 *
 * CUT_FOLDER  the folder; calls about other files are not counted
 * CUT_COUNTER a file of 8 zero bytes: how many calls there were
 * CUT_LOG     each call gets a line: number, name, size, path (and the new path of a rename)
 * CUT_AT      N; without it nothing is killed
 * CUT_HALF    when it is there, half of the bytes of a write at N reach the file
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *folder;
static uint64_t *counter, at = UINT64_MAX;
static int log_file = -1, half;

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("CUT_COUNTER"), *log = getenv("CUT_LOG"), *limit = getenv("CUT_AT");
    if (!file || !log) return;
    int opened = syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC);
    counter = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, opened, 0);
    syscall(SYS_close, opened);
    log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (counter == MAP_FAILED || log_file < 0) abort();
    if (limit) at = strtoull(limit, NULL, 10);
    half = getenv("CUT_HALF") != NULL;
    folder = getenv("CUT_FOLDER");
}

/* The absolute path of a name that is relative to an open folder, or of an open file (name NULL). */
static const char *resolve(int fd, const char *name, char *path) {
    char link[64];
    if (name && name[0] == '/') return strncpy(path, name, PATH_MAX - 1);
    snprintf(link, sizeof link, fd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size < 0) size = 0;
    path[size] = 0;
    if (name) snprintf(path + size, PATH_MAX - size, "/%s", name);
    return path;
}

/* Count a call. Whether its half is still to be done before ``cut``. */
static int step(const char *call, size_t size, int fd, const char *name, int to_fd, const char *to) {
    char path[PATH_MAX] = "", target[PATH_MAX] = "", line[2 * PATH_MAX + 64];
    if (!folder) return 0;
    resolve(fd, name, path);
    if (to) resolve(to_fd, to, target);
    size_t prefix = strlen(folder);
    const char *changed = to ? target : path;
    if (strncmp(changed, folder, prefix) || (changed[prefix] && changed[prefix] != '/')) return 0;
    uint64_t number = __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
    int length = snprintf(line, sizeof line, "%llu\t%s\t%zu\t%s\t%s\n", (unsigned long long)number, call, size,
                          path, target);
    syscall(SYS_write, log_file, line, length);
    if (number < at) return 0;
    if (number == at && half && size > 1) return 1;
    kill(0, SIGKILL);
    for (;;) pause();
}

static void cut(void) {
    kill(0, SIGKILL);
    for (;;) pause();
}

ssize_t write(int fd, const void *data, size_t size) {
    if (step("write", size, fd, NULL, 0, NULL)) { REAL(write)(fd, data, size / 2); cut(); }
    return REAL(write)(fd, data, size);
}

#define PWRITE(function, offset_type)                                                      \
    ssize_t function(int fd, const void *data, size_t size, offset_type offset) {          \
        if (step("pwrite", size, fd, NULL, 0, NULL)) {                                     \
            REAL(function)(fd, data, size / 2, offset);                                    \
            cut();                                                                         \
        }                                                                                  \
        return REAL(function)(fd, data, size, offset);                                     \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (step("writev", count > 1 ? 2 : 0, fd, NULL, 0, NULL)) { REAL(writev)(fd, parts, count / 2); cut(); }
    return REAL(writev)(fd, parts, count);
}

/* What has no half: name, parameters, how its file is told, the call. */
#define WHOLE(function, parameters, told, arguments)   \
    int function parameters {                          \
        step told;                                     \
        return REAL(function) arguments;               \
    }
WHOLE(fsync, (int fd), ("fsync", 0, fd, NULL, 0, NULL), (fd))
WHOLE(fdatasync, (int fd), ("fsync", 0, fd, NULL, 0, NULL), (fd))
WHOLE(ftruncate, (int fd, off_t size), ("ftruncate", 0, fd, NULL, 0, NULL), (fd, size))
WHOLE(ftruncate64, (int fd, off64_t size), ("ftruncate", 0, fd, NULL, 0, NULL), (fd, size))
WHOLE(posix_fallocate, (int fd, off_t from, off_t size), ("fallocate", 0, fd, NULL, 0, NULL), (fd, from, size))
WHOLE(posix_fallocate64, (int fd, off64_t from, off64_t size), ("fallocate", 0, fd, NULL, 0, NULL),
      (fd, from, size))
WHOLE(rename, (const char *old, const char *new), ("rename", 0, AT_FDCWD, old, AT_FDCWD, new), (old, new))
WHOLE(renameat, (int from, const char *old, int to, const char *new), ("rename", 0, from, old, to, new),
      (from, old, to, new))
WHOLE(renameat2, (int from, const char *old, int to, const char *new, unsigned flags),
      ("rename", 0, from, old, to, new), (from, old, to, new, flags))
WHOLE(link, (const char *old, const char *new), ("link", 0, AT_FDCWD, old, AT_FDCWD, new), (old, new))
WHOLE(symlink, (const char *to, const char *name), ("symlink", 0, AT_FDCWD, name, 0, NULL), (to, name))
WHOLE(unlink, (const char *name), ("unlink", 0, AT_FDCWD, name, 0, NULL), (name))
WHOLE(unlinkat, (int fd, const char *name, int flags), ("unlink", 0, fd, name, 0, NULL), (fd, name, flags))
WHOLE(rmdir, (const char *name), ("rmdir", 0, AT_FDCWD, name, 0, NULL), (name))
WHOLE(mkdir, (const char *name, mode_t mode), ("mkdir", 0, AT_FDCWD, name, 0, NULL), (name, mode))
WHOLE(mkdirat, (int fd, const char *name, mode_t mode), ("mkdir", 0, fd, name, 0, NULL), (fd, name, mode))

/* Opening a file changes the disk when it makes the file or empties it. */
#define OPEN(function)                                                             \
    int function(const char *name, int flags, ...) {                               \
        va_list more;                                                              \
        va_start(more, flags);                                                     \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;    \
        va_end(more);                                                              \
        if (flags & (O_CREAT | O_TRUNC)) step("open", 0, AT_FDCWD, name, 0, NULL); \
        return REAL(function)(name, flags, mode);                                  \
    }
OPEN(open)
OPEN(open64)
