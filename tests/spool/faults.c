/* Preloaded into a process that stores messages: makes one call on a file below FAULT_FOLDER fail.
 *
 * FAULT_CALL names the kind (open, write, sync, truncate, unlink, mkdir, say), FAULT_NTH which one of that kind, counted from 1,
 * FAULT_ERRNO how. FAULT_FOREVER=1 makes all later ones fail too. Writes may also be cut short (FAULT_SHORT=1): half is
 * written, then the next fails. FAULT_KILL=1 kills the process instead of failing the call, FAULT_AFTER=1 right after
 * it was made. FAULT_FILE is a pattern (fnmatch) that the path must fit. The kind "say" is a write to standard output. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int seen;

static int armed(const char *kind) {
    const char *wanted = getenv("FAULT_CALL");
    if (!wanted || strcmp(wanted, kind)) return 0;
    int number = atomic_fetch_add(&seen, 1) + 1, nth = atoi(getenv("FAULT_NTH"));
    if (number == nth || (number > nth && getenv("FAULT_FOREVER"))) {
        dprintf(2, "fault\n");
        if (getenv("FAULT_KILL") && !getenv("FAULT_AFTER")) kill(getpid(), SIGKILL);
        if (getenv("FAULT_AFTER")) return 2;
        errno = atoi(getenv("FAULT_ERRNO"));
        return 1;
    }
    return 0;
}

static int ours_path(const char *path) {
    const char *folder = getenv("FAULT_FOLDER");
    const char *file = getenv("FAULT_FILE");
    return folder && path && !strncmp(path, folder, strlen(folder)) && (!file || !fnmatch(file, path, 0));
}

/* Returns what the call returned, unless this was the one after which the process ends. */
static long then(int armed, long result) {
    if (armed == 2) kill(getpid(), SIGKILL);
    return result;
}

static int ours(int fd) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return ours_path(path);
}

#define REAL(ret, name, ...) \
    static ret (*real)(__VA_ARGS__); \
    if (!real) real = (ret(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(symbol) \
    int symbol(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        REAL(int, #symbol, const char *, int, ...); \
        int now = ours_path(path) ? armed("open") : 0; \
        return now == 1 ? -1 : then(now, real(path, flags, mode)); \
    }
OPEN(open)
OPEN(open64)

#define PWRITE(symbol, offset_t) \
    ssize_t symbol(int fd, const void *data, size_t size, offset_t at) { \
        REAL(ssize_t, #symbol, int, const void *, size_t, offset_t); \
        int now = ours(fd) ? armed("write") : 0; \
        if (now == 1) return getenv("FAULT_SHORT") && size > 1 ? real(fd, data, size / 2, at) : -1; \
        return then(now, real(fd, data, size, at)); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int now = fd == 1 ? armed("say") : fd > 2 && ours(fd) ? armed("write") : 0;
    return now == 1 ? -1 : then(now, real(fd, data, size));
}

#define SYNC(symbol) \
    int symbol(int fd) { \
        REAL(int, #symbol, int); \
        int now = ours(fd) ? armed("sync") : 0; \
        return now == 1 ? -1 : then(now, real(fd)); \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(symbol, offset_t) \
    int symbol(int fd, offset_t size) { \
        REAL(int, #symbol, int, offset_t); \
        int now = ours(fd) ? armed("truncate") : 0; \
        return now == 1 ? -1 : then(now, real(fd, size)); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    int now = ours_path(path) ? armed("unlink") : 0;
    return now == 1 ? -1 : then(now, real(path));
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    int now = ours_path(path) ? armed("mkdir") : 0;
    return now == 1 ? -1 : then(now, real(path, mode));
}
