/* A program with every kind of state that an ordinary container has. It sets all of it up, writes "ready" to /srv/report,
 * and at each SIGUSR1 looks whether all of it still is as it was: then it appends "ok", or "bad: ...". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 3
#define BLOCKED 99 /* the errno that the filter gives for mkdir */
#define MUST(x) do { if ((x) < 0) { say("cannot " #x); _exit(1); } } while (0)
#define CHECK(x) do { if (!(x)) { snprintf(bad, sizeof bad, "bad: line %d: %s (errno %d)", __LINE__, #x, errno); return bad; } } while (0)

static char bad[512];
static volatile unsigned long turns[THREADS], ticks;
static volatile sig_atomic_t alarms;
static pid_t child;
static int to_child[2], from_child[2], pair[2], gone, locked, watch, timer, event, epoll, memory, signals, listener, client, accepted, unix_listener;
static unsigned long *shared, *sysv;
static char *private;

static void say(const char *text)
{
    int file = open("/srv/report", O_WRONLY | O_CREAT | O_APPEND, 0644);
    dprintf(file, "%s\n", text);
    close(file);
}

static void on_alarm(int number) { (void)number; alarms++; }

static void *turn(void *index)
{
    static __thread unsigned long own; /* thread-local memory, too */
    for (;;) {
        turns[(long)index] = ++own;
        usleep(1000);
    }
    return NULL;
}

static void *tick(void *none)
{
    uint64_t count;
    while (read(timer, &count, 8) == 8)
        ticks += count;
    return none;
}

static void serve_as_child(void)
{
    char byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (read(to_child[0], &byte, 1) == 1) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        char answer = byte + 1;
        if (byte == 'l') /* is the parent's lock in our way? */
            answer = fcntl(locked, F_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES) ? 'y' : 'n';
        if (byte == 'm')
            answer = ++shared[0] ? 'y' : 'n';
        if (write(from_child[1], &answer, 1) != 1)
            _exit(1);
    }
    _exit(0);
}

static int ask(char byte)
{
    char answer = 0;
    if (write(to_child[1], &byte, 1) != 1 || read(from_child[0], &answer, 1) != 1)
        return -1;
    return answer;
}

static void setup(void)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/srv/socket"};
    struct itimerspec each = {{0, 20000000}, {0, 20000000}};
    struct itimerval alarm_each = {{0, 20000}, {0, 20000}};
    struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 4711};
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    pthread_t thread;
    sigset_t mask;

    umask(027);
    MUST(chdir("/srv/home"));
    MUST(pipe(to_child));
    MUST(pipe(from_child));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(write(pair[0], "unread", 6));
    MUST(gone = open("/srv/gone", O_RDWR | O_CREAT, 0600));
    MUST(write(gone, "kept", 4));
    MUST(unlink("/srv/gone"));
    MUST(locked = open("/srv/locked", O_RDWR | O_CREAT, 0600));
    MUST(fcntl(locked, F_SETLK, &lock));
    MUST(watch = inotify_init1(IN_NONBLOCK));
    MUST(inotify_add_watch(watch, "/srv/home", IN_CREATE));
    MUST(timer = timerfd_create(CLOCK_MONOTONIC, 0));
    MUST(timerfd_settime(timer, 0, &each, NULL));
    MUST(event = eventfd(7, EFD_NONBLOCK));
    MUST(epoll = epoll_create1(0));
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted));
    MUST(memory = memfd_create("mem", 0));
    MUST(write(memory, "in memory", 9));
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    MUST(signals = signalfd(-1, &mask, SFD_NONBLOCK));
    MUST(listener = socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&place, sizeof place)); /* a port for those with the capability */
    MUST(listen(listener, 5));
    MUST(client = socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr *)&place, sizeof place)); 
    MUST(write(client, "queued", 6));
    MUST(accepted = accept(listener, NULL, NULL));
    MUST(unix_listener = socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(unix_listener, (struct sockaddr *)&name, sizeof name));
    MUST(listen(unix_listener, 5));
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    private = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(private, "private");
    int segment = shmget(IPC_PRIVATE, 4096, 0600);
    MUST(segment);
    sysv = shmat(segment, NULL, 0);
    sysv[0] = 12;
    MUST(child = fork());
    if (child == 0)
        serve_as_child();
    signal(SIGALRM, on_alarm);
    MUST(setitimer(ITIMER_REAL, &alarm_each, NULL));
    MUST(-pthread_create(&thread, NULL, tick, NULL));
    for (long index = 0; index < THREADS; index++)
        MUST(-pthread_create(&thread, NULL, turn, (void *)index));
}

static const char *verify(void)
{
    static int round;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2];
    struct epoll_event ready;
    struct stat at;
    char text[64], path[64];
    gid_t groups[8];
    unsigned long before[THREADS];
    uint64_t count;

    round++;
    CHECK(getuid() == (uid_t)atoi(getenv("EXPECTED_USER")) && getgroups(8, groups) == 2 && groups[0] == 5 && groups[1] == 6);
    CHECK(!gethostname(text, sizeof text) && !strcmp(text, "all"));
    CHECK(getenv("GREETING") && !strcmp(getenv("GREETING"), "good day"));
    CHECK(getcwd(text, sizeof text) && !strcmp(text, "/srv/home"));
    mode_t mode = umask(027);
    CHECK(mode == 027);
    CHECK(!syscall(SYS_capget, &header, sets) && sets[0].effective == 1 << CAP_NET_BIND_SERVICE && !sets[1].effective);
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    CHECK(mkdir("/srv/home/never", 0700) < 0 && errno == BLOCKED);
    CHECK(prctl(PR_GET_SECCOMP) == 2);

    CHECK(ask('a') == 'b');
    CHECK(ask('l') == 'y');
    unsigned long shown = shared[0];
    CHECK(ask('m') == 'y' && shared[0] == shown + 1);
    CHECK(!strcmp(private, "private") && sysv[0] == 12);
    CHECK(recv(pair[1], text, 6, MSG_PEEK) == 6 && !memcmp(text, "unread", 6));
    CHECK(!fstat(gone, &at) && at.st_nlink == 0 && pread(gone, text, 4, 0) == 4 && !memcmp(text, "kept", 4));
    CHECK(pwrite(gone, "kept", 4, 0) == 4);
    CHECK(pread(memory, text, 9, 0) == 9 && !memcmp(text, "in memory", 9));
    CHECK(epoll_wait(epoll, &ready, 1, 0) == 1 && ready.data.u64 == 4711);
    CHECK(read(event, &count, 8) == 8 && count == 7);
    count = 7;
    CHECK(write(event, &count, 8) == 8);

    while (read(watch, text, sizeof text) > 0)
        ;
    snprintf(path, sizeof path, "/srv/home/new-%d", round);
    CHECK(close(open(path, O_WRONLY | O_CREAT, 0600)) == 0);
    CHECK(read(watch, text, sizeof text) > 0);
    union sigval none = {0};
    CHECK(!sigqueue(getpid(), SIGUSR2, none));
    struct signalfd_siginfo heard;
    struct pollfd wait = {signals, POLLIN, 0};
    CHECK(poll(&wait, 1, 5000) == 1 && read(signals, &heard, sizeof heard) == sizeof heard && heard.ssi_signo == SIGUSR2);

    /* A connection with something unread in it; then another one. */
    CHECK(read(accepted, text, 6) == 6 && !memcmp(text, "queued", 6));
    CHECK(write(accepted, "answer", 6) == 6 && read(client, text, 6) == 6 && !memcmp(text, "answer", 6));
    close(accepted);
    close(client);
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(!connect(client, (struct sockaddr *)&place, sizeof place) && write(client, "queued", 6) == 6);
    accepted = accept(listener, NULL, NULL);
    CHECK(accepted >= 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/srv/socket"};
    int caller = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(!connect(caller, (struct sockaddr *)&name, sizeof name));
    int answered = accept(unix_listener, NULL, NULL);
    CHECK(answered >= 0);
    close(answered);
    close(caller);

    /* Everything that goes on by itself does. */
    for (int index = 0; index < THREADS; index++)
        before[index] = turns[index];
    sig_atomic_t rung = alarms;
    unsigned long ticked = ticks;
    for (int tries = 0; tries < 5000; tries++) {
        int going = alarms > rung && ticks > ticked;
        for (int index = 0; index < THREADS; index++)
            going &= turns[index] > before[index];
        if (going)
            return "ok";
        usleep(1000);
    }
    return "bad: a thread, the alarm or the timer stands still";
}

int main(void)
{
    sigset_t asked;
    int number;

    sigemptyset(&asked);
    sigaddset(&asked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &asked, NULL);
    setup();
    say("ready");
    while (!sigwait(&asked, &number))
        say(verify());
    return 1;
}
