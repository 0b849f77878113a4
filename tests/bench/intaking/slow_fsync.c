/* Makes every call that waits for the disk take so many milliseconds longer (SLOW_FSYNC_MS).

   Loaded before libc (LD_PRELOAD): fsync, fdatasync, sync, syncfs, sync_file_range, msync, and
   writes that sync by a flag of the call (RWF_DSYNC, RWF_SYNC) or of the file (O_DSYNC, O_SYNC).
   Calls of different threads wait at the same time, as on a disk far away. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void wait_for_disk(void)
{
    static long milliseconds = -1;
    int before = errno;
    if (milliseconds < 0) {
        const char *text = getenv("SLOW_FSYNC_MS");
        milliseconds = text ? atol(text) : 0;
    }
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&left, &left) && errno == EINTR)
        ;
    errno = before;
}

static void wait_if_synced(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags != -1 && flags & O_DSYNC) /* O_SYNC has that bit too */
        wait_for_disk();
}

#define REAL(result, name, ...)                                                                    \
    static result (*real)(__VA_ARGS__);                                                            \
    if (!real)                                                                                     \
        *(void **)&real = dlsym(RTLD_NEXT, name);

int fsync(int fd)
{
    REAL(int, "fsync", int)
    wait_for_disk();
    return real(fd);
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int)
    wait_for_disk();
    return real(fd);
}

int syncfs(int fd)
{
    REAL(int, "syncfs", int)
    wait_for_disk();
    return real(fd);
}

void sync(void)
{
    REAL(void, "sync", void)
    wait_for_disk();
    real();
}

int sync_file_range(int fd, off64_t offset, off64_t count, unsigned flags)
{
    REAL(int, "sync_file_range", int, off64_t, off64_t, unsigned)
    wait_for_disk();
    return real(fd, offset, count, flags);
}

int msync(void *address, size_t length, int flags)
{
    REAL(int, "msync", void *, size_t, int)
    if (flags & MS_SYNC)
        wait_for_disk();
    return real(address, length, flags);
}

ssize_t write(int fd, const void *data, size_t count)
{
    REAL(ssize_t, "write", int, const void *, size_t)
    wait_if_synced(fd);
    return real(fd, data, count);
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    REAL(ssize_t, "writev", int, const struct iovec *, int)
    wait_if_synced(fd);
    return real(fd, pieces, count);
}

#define PWRITE(name)                                                                               \
    ssize_t name(int fd, const void *data, size_t count, off64_t offset)                           \
    {                                                                                              \
        REAL(ssize_t, #name, int, const void *, size_t, off64_t)                                   \
        wait_if_synced(fd);                                                                        \
        return real(fd, data, count, offset);                                                      \
    }

PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name)                                                                              \
    ssize_t name(int fd, const struct iovec *pieces, int count, off64_t offset)                    \
    {                                                                                              \
        REAL(ssize_t, #name, int, const struct iovec *, int, off64_t)                              \
        wait_if_synced(fd);                                                                        \
        return real(fd, pieces, count, offset);                                                    \
    }

PWRITEV(pwritev)
PWRITEV(pwritev64)

#define PWRITEV2(name)                                                                             \
    ssize_t name(int fd, const struct iovec *pieces, int count, off64_t offset, int flags)         \
    {                                                                                              \
        REAL(ssize_t, #name, int, const struct iovec *, int, off64_t, int)                         \
        if (flags & (RWF_DSYNC | RWF_SYNC))                                                        \
            wait_for_disk();                                                                       \
        else                                                                                       \
            wait_if_synced(fd);                                                                    \
        return real(fd, pieces, count, offset, flags);                                             \
    }

PWRITEV2(pwritev2)
PWRITEV2(pwritev64v2)
