/* Preloaded into a process that stores messages: writes down, in their order, all calls that change what is on a disk.
 *
 * RECORD_FOLDER is the disk, RECORD_LOG where the record goes: for each call its kind (one letter), the length of the
 * path, an offset, the length of the data (4, 8 and 8 octets), then path and data. Kinds: c(reate), d (mkdir), w(rite),
 * t(runcate), s(ync), u(nlink), r(ename), and k for what the process says on its standard output. One call at a time is
 * made, so that a sync covers exactly what stands before it in the record. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

#define REAL(ret, name, ...) \
    static ret (*real)(__VA_ARGS__); \
    if (!real) real = (ret(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
#define LOCKED(ret, call) \
    pthread_mutex_lock(&one_at_a_time); \
    ret result = call

static int ours(const char *path) {
    const char *folder = getenv("RECORD_FOLDER");
    size_t length = path ? strlen(path) : 0;
    if (!folder || strncmp(path ? path : "", folder, strlen(folder))) return 0;
    /* The index of SQLite's log is made anew after a crash, and a file for a lock has nothing in it. */
    return length < 4 || strcmp(path + length - 4, "-shm");
}

static const char *path_of(int fd, char *path) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, path, 4095);
    path[n < 0 ? 0 : n] = 0;
    return ours(path) ? path : NULL;
}

static void note(char kind, const char *path, uint64_t at, const void *data, uint64_t size) {
    static int log = -1;
    static int (*open_it)(const char *, int, ...);
    if (log < 0) {
        open_it = dlsym(RTLD_NEXT, "open");
        log = open_it(getenv("RECORD_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    uint32_t length = strlen(path);
    struct iovec parts[] = {{&kind, 1}, {&length, 4}, {&at, 8}, {&size, 8}, {(void *)path, length}, {(void *)data, size}};
    if (writev(log, parts, 6) != (ssize_t)(21 + length + size)) abort();
}

#define OPEN(symbol) \
    int symbol(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        REAL(int, #symbol, const char *, int, ...); \
        if (!ours(path) || !(flags & (O_CREAT | O_TRUNC))) return real(path, flags, mode); \
        pthread_mutex_lock(&one_at_a_time); \
        int fresh = access(path, F_OK) != 0, fd = real(path, flags, mode); \
        if (fd >= 0 && fresh) note('c', path, 0, "", 0); \
        else if (fd >= 0 && flags & O_TRUNC) note('t', path, 0, "", 0); \
        pthread_mutex_unlock(&one_at_a_time); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

#define PWRITE(symbol, offset_t) \
    ssize_t symbol(int fd, const void *data, size_t size, offset_t at) { \
        REAL(ssize_t, #symbol, int, const void *, size_t, offset_t); \
        char path[4096]; \
        if (!path_of(fd, path)) return real(fd, data, size, at); \
        LOCKED(ssize_t, real(fd, data, size, at)); \
        if (result > 0) note('w', path, at, data, result); \
        pthread_mutex_unlock(&one_at_a_time); \
        return result; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char path[4096];
    if (fd != 1 && !path_of(fd, path)) return real(fd, data, size);
    pthread_mutex_lock(&one_at_a_time);
    uint64_t at = fd == 1 ? 0 : lseek(fd, 0, SEEK_CUR);
    ssize_t result = real(fd, data, size);
    if (result > 0) note(fd == 1 ? 'k' : 'w', fd == 1 ? "" : path, at, data, result);
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}

#define SYNC(symbol) \
    int symbol(int fd) { \
        REAL(int, #symbol, int); \
        char path[4096]; \
        if (!path_of(fd, path)) return real(fd); \
        LOCKED(int, real(fd)); \
        if (!result) note('s', path, 0, "", 0); \
        pthread_mutex_unlock(&one_at_a_time); \
        return result; \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(symbol, offset_t) \
    int symbol(int fd, offset_t size) { \
        REAL(int, #symbol, int, offset_t); \
        char path[4096]; \
        if (!path_of(fd, path)) return real(fd, size); \
        LOCKED(int, real(fd, size)); \
        if (!result) note('t', path, size, "", 0); \
        pthread_mutex_unlock(&one_at_a_time); \
        return result; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    if (!ours(path)) return real(path, mode);
    LOCKED(int, real(path, mode));
    if (!result) note('d', path, 0, "", 0);
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (!ours(path)) return real(path);
    LOCKED(int, real(path));
    if (!result) note('u', path, 0, "", 0);
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if (!ours(from) && !ours(to)) return real(from, to);
    LOCKED(int, real(from, to));
    if (!result) note('r', from, 0, to, strlen(to));
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}
