/* Makes writing below one folder fail, as a full or broken disk does. For benchmarks/faults.py, by LD_PRELOAD.

   fault_arm(folder, after, error, once): the call number `after` that writes below `folder` fails with `error`, and
   unless `once` all that follow, too. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static int left = -1, error, once;

void fault_arm(const char *path, int after, int number, int only_once) {
    strncpy(folder, path, sizeof folder - 1);
    left = after, error = number, once = only_once;
}

static int fails(const char *path) {
    if (left < 0 || !path || strncmp(path, folder, strlen(folder))) return 0;
    if (left > 0) { left--; return 0; }
    if (once) left = -1;
    errno = error;
    return 1;
}

static int fails_at(int file) {
    char link[64], path[PATH_MAX];
    if (left < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(path);
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define ON_FILE(result, name, arguments, call) \
    result name arguments { return fails_at(file) ? -1 : REAL(name) call; }
#define ON_PATH(result, name, arguments, call) \
    result name arguments { return fails(path) ? -1 : REAL(name) call; }
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return (flags & (O_WRONLY | O_RDWR)) && fails(path) ? -1 : REAL(name)(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)
ON_FILE(ssize_t, write, (int file, const void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, writev, (int file, const struct iovec *data, int count), (file, data, count))
ON_FILE(int, fsync, (int file), (file))
ON_FILE(int, ftruncate64, (int file, off64_t size), (file, size))
ON_PATH(int, rename, (const char *path, const char *new), (path, new))
ON_PATH(int, link, (const char *path, const char *new), (path, new))
ON_PATH(int, unlink, (const char *path), (path))
ON_PATH(int, mkdir, (const char *path, mode_t mode), (path, mode))
