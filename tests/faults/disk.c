/*
 * A disk that fails when it is told to: preloaded into a program under test, it stands between the
 * program and the system at every step that changes what lies below one folder.
 *
 * What must not be here: anything that knows what the program is. The steps are counted from 1; the
 * test says through the shared control file at which of them what happens, and may change its mind
 * while the program runs. Nothing of this is linked into the program itself.
 *
 *   FAULTS_DIR      the folder; whatever lies elsewhere is left alone
 *   FAULTS_CONTROL  the control file, `struct control`
 *   FAULTS_LOG      if set: every step, and every write to standard output, in the order they
 *                   happened (one lock around both), so that a test can tell what a power cut would
 *                   have left at any moment and what had been promised by then
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum mode {
    NOTHING = 0,
    DIE = 1,      /* SIGKILL before the step */
    DIE_HALF = 2, /* SIGKILL in the middle of a write, after any other step */
    FAIL = 3,     /* the step fails with `error` */
    SHORT = 4     /* a write takes half; if `error` is set, the next one fails with it */
};

enum kind { WRITE = 1, SYNC = 2, TRUNCATE = 4, RENAME = 8, UNLINK = 16, CREATE = 32, OPEN = 64 };

struct control {
    uint64_t mode, at, count, error, kinds, steps, hits;
};

static struct control *control;
static char dir[PATH_MAX];
static size_t dir_len;
static int log_fd = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_mkdir)(const char *, mode_t);
static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);

static void put(const void *bytes, size_t n) {
    const char *at = bytes;
    while (n > 0) {
        long written = syscall(SYS_write, log_fd, at, n);
        if (written <= 0)
            abort();
        at += written;
        n -= (size_t)written;
    }
}

/* op, length of the path, path, offset, length of the data, data */
static void note(char op, const char *path, uint64_t offset, const void *data, uint64_t n) {
    if (log_fd < 0)
        return;
    uint64_t path_len = strlen(path);
    put(&op, 1);
    put(&path_len, sizeof path_len);
    put(path, path_len);
    put(&offset, sizeof offset);
    put(&n, sizeof n);
    put(data, n);
}

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_mkdir = dlsym(RTLD_NEXT, "mkdir");
    real_open = dlsym(RTLD_NEXT, "open64");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    const char *folder = getenv("FAULTS_DIR"), *file = getenv("FAULTS_CONTROL");
    if (!folder || !file || strlen(folder) >= sizeof dir)
        return;
    int fd = real_open(file, O_RDWR | O_CLOEXEC);
    void *at = fd < 0 ? MAP_FAILED
                      : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        abort();
    close(fd);
    strcpy(dir, folder);
    dir_len = strlen(dir);
    const char *log = getenv("FAULTS_LOG");
    if (log)
        log_fd = real_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    control = at;
}

static int is_inside(const char *path) {
    return control && strncmp(path, dir, dir_len) == 0 &&
           (path[dir_len] == '/' || path[dir_len] == 0);
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = control ? readlink(link, path, PATH_MAX - 1) : -1;
    if (n <= 0)
        return 0;
    path[n] = 0;
    return is_inside(path);
}

static void die(void) {
    syscall(SYS_kill, (long)getpid(), (long)SIGKILL);
    for (;;)
        pause();
}

/* Counts a step; what is to become of it. */
static enum mode step(enum kind kind) {
    uint64_t n = __atomic_add_fetch(&control->steps, 1, __ATOMIC_SEQ_CST);
    uint64_t at = control->at, count = control->count;
    if (control->mode == NOTHING || !(control->kinds & kind) || n < at || n - at >= count)
        return NOTHING;
    __atomic_add_fetch(&control->hits, 1, __ATOMIC_SEQ_CST);
    if (control->mode == DIE)
        die();
    return control->mode;
}

/* For steps that have no middle; -1 with errno if it fails. */
static int whole(enum kind kind) {
    enum mode mode = step(kind);
    if (mode == FAIL || (mode == SHORT && control->error)) {
        errno = (int)control->error;
        return -1;
    }
    return mode == DIE_HALF;
}

static ssize_t write_at(int fd, const char *path, const void *bytes, size_t n, off_t offset, int seek) {
    enum mode mode = step(WRITE);
    size_t part = n;
    if (mode == FAIL || (mode == SHORT && control->error && control->hits > 1)) {
        errno = (int)control->error;
        return -1;
    }
    if (n > 1 && (mode == DIE_HALF || mode == SHORT))
        part = n / 2;
    ssize_t written = seek ? real_write(fd, bytes, part) : real_pwrite(fd, bytes, part, offset);
    if (written > 0)
        note('W', path, (uint64_t)offset, bytes, (uint64_t)written);
    if (mode == DIE_HALF)
        die();
    return written;
}

ssize_t write(int fd, const void *bytes, size_t n) {
    char path[PATH_MAX];
    if (fd == 1 && control && log_fd >= 0) {
        pthread_mutex_lock(&lock);
        ssize_t written = real_write(fd, bytes, n);
        if (written > 0)
            note('P', "", 0, bytes, (uint64_t)written);
        pthread_mutex_unlock(&lock);
        return written;
    }
    if (!path_of(fd, path))
        return real_write(fd, bytes, n);
    pthread_mutex_lock(&lock);
    struct stat about;
    /* Appending, whatever the position says. */
    int appends = (fcntl(fd, F_GETFL) & O_APPEND) && fstat(fd, &about) == 0;
    off_t offset = appends ? about.st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t written = write_at(fd, path, bytes, n, offset, 1);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t offset) {
    char path[PATH_MAX];
    if (!path_of(fd, path))
        return real_pwrite(fd, bytes, n, offset);
    pthread_mutex_lock(&lock);
    ssize_t written = write_at(fd, path, bytes, n, offset, 0);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset) {
    return pwrite64(fd, bytes, n, offset);
}

/* One step that has no middle: `call` does it, `entry` notes it. */
#define STEP(kind, call, entry)                                                                    \
    pthread_mutex_lock(&lock);                                                                     \
    int told = whole(kind);                                                                        \
    int result = told < 0 ? -1 : (call);                                                           \
    int error = errno;                                                                             \
    if (result >= 0) {                                                                             \
        entry;                                                                                     \
    }                                                                                              \
    if (told > 0)                                                                                  \
        die();                                                                                     \
    pthread_mutex_unlock(&lock);                                                                   \
    errno = error;                                                                                 \
    return result

int fsync(int fd) {
    char path[PATH_MAX];
    if (!path_of(fd, path))
        return real_fsync(fd);
    STEP(SYNC, real_fsync(fd), note('S', path, 0, "", 0));
}

int fdatasync(int fd) {
    char path[PATH_MAX];
    if (!path_of(fd, path))
        return real_fdatasync(fd);
    STEP(SYNC, real_fdatasync(fd), note('S', path, 0, "", 0));
}

int ftruncate64(int fd, off_t length) {
    char path[PATH_MAX];
    if (!path_of(fd, path))
        return real_ftruncate(fd, length);
    STEP(TRUNCATE, real_ftruncate(fd, length), note('T', path, (uint64_t)length, "", 0));
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int rename(const char *from, const char *to) {
    if (!is_inside(from) && !is_inside(to))
        return real_rename(from, to);
    STEP(RENAME, real_rename(from, to), note('R', from, 0, to, strlen(to)));
}

int unlink(const char *path) {
    if (!is_inside(path))
        return real_unlink(path);
    STEP(UNLINK, real_unlink(path), note('U', path, 0, "", 0));
}

int mkdir(const char *path, mode_t mode) {
    struct stat about;
    if (!is_inside(path) || stat(path, &about) == 0)
        return real_mkdir(path, mode);
    STEP(CREATE, real_mkdir(path, mode), note('D', path, 0, "", 0));
}

static int open_file(int at, const char *path, int flags, mode_t mode) {
    struct stat about;
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    int is_new = (flags & O_CREAT) && stat(path, &about) != 0;
    if (!is_inside(path) || !(writes || is_new))
        return real_openat(at, path, flags, mode);
    if (!is_new && !(flags & O_TRUNC)) {
        /* Not a step: it changes nothing. A disk that is read-only refuses it all the same. */
        if (control->mode == FAIL && (control->kinds & OPEN) && control->steps + 1 >= control->at) {
            errno = (int)control->error;
            return -1;
        }
        return real_openat(at, path, flags, mode);
    }
    STEP(CREATE, real_openat(at, path, flags, mode), note(is_new ? 'C' : 'T', path, 0, "", 0));
}

static mode_t mode_of(int flags, va_list more) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

#define OPEN_LIKE(name)                                                                            \
    int name(const char *path, int flags, ...) {                                                   \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = mode_of(flags, more);                                                        \
        va_end(more);                                                                              \
        return open_file(AT_FDCWD, path, flags, mode);                                             \
    }
OPEN_LIKE(open)
OPEN_LIKE(open64)

#define OPENAT_LIKE(name)                                                                          \
    int name(int at, const char *path, int flags, ...) {                                           \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = mode_of(flags, more);                                                        \
        va_end(more);                                                                              \
        return open_file(at, path, flags, mode);                                                   \
    }
OPENAT_LIKE(openat)
OPENAT_LIKE(openat64)
