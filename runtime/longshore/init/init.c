/* docker-init: PID 1 for a container whose program isn't made to be one.
 *
 *     docker-init [-s] [-p SIGNAL] [-v] [-w] [-g] [-e CODE] [--] PROGRAM [ARGUMENT...]
 *
 * Starts PROGRAM in a process group of its own, passes signals on to it, reaps
 * whatever is orphaned, and ends as PROGRAM does (128 + n after signal n). The
 * command line, environment and exit codes are those of tini, which dockerd
 * expects under this name; built static, because the container may be empty.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VERSION_TEXT "tini version 0.19.0 - git.longshore"

/* By this longshore.link knows a file that it may replace. */
__attribute__((used)) static const char mark[] = "# Written by `longshore link`, which may replace it.";

static struct {
    int subreaper, parent_signal, verbosity, warn_reaped, whole_group;
    unsigned char forgiven[256]; /* exit codes that count as 0 */
} options = {.verbosity = 1};

static void say(int level, const char *kind, const char *format, ...)
{
    va_list words;
    if (level > options.verbosity)
        return;
    fprintf(stderr, "[%s tini (%d)] ", kind, (int)getpid());
    va_start(words, format);
    vfprintf(stderr, format, words);
    va_end(words);
    fputc('\n', stderr);
}

#define FATAL(...) say(0, "FATAL", __VA_ARGS__)
#define WARN(...) say(1, "WARN ", __VA_ARGS__)
#define DEBUG(...) say(3, "DEBUG", __VA_ARGS__)

static int usage(FILE *file)
{
    fprintf(file,
            "%s\n\nUsage: docker-init [OPTIONS] PROGRAM -- [ARGS] | --version\n\n"
            "Execute a program under the supervision of a valid init process\n\n"
            "  --version    Show version and exit.\n"
            "  -h           Show this help message and exit.\n"
            "  -s           Register as a process subreaper (requires Linux >= 3.4).\n"
            "  -p SIGNAL    Trigger SIGNAL when parent dies, e.g. \"-p SIGKILL\".\n"
            "  -v           Generate more verbose output. Repeat up to 3 times.\n"
            "  -w           Print a warning when processes are getting reaped.\n"
            "  -g           Send signals to the child's process group.\n"
            "  -e EXIT_CODE Remap EXIT_CODE (from 0 to 255) to 0.\n"
            "  -l           Show license and exit.\n",
            VERSION_TEXT);
    return file == stderr;
}

static int signal_number(const char *name)
{
#define NAMED(signal) {#signal, signal}
    static const struct { const char *name; int number; } names[] = {
        NAMED(SIGHUP), NAMED(SIGINT), NAMED(SIGQUIT), NAMED(SIGILL), NAMED(SIGTRAP), NAMED(SIGABRT),
        NAMED(SIGBUS), NAMED(SIGFPE), NAMED(SIGKILL), NAMED(SIGUSR1), NAMED(SIGSEGV), NAMED(SIGUSR2),
        NAMED(SIGPIPE), NAMED(SIGALRM), NAMED(SIGTERM), NAMED(SIGCHLD), NAMED(SIGCONT), NAMED(SIGSTOP),
        NAMED(SIGTSTP), NAMED(SIGTTIN), NAMED(SIGTTOU), NAMED(SIGURG), NAMED(SIGXCPU), NAMED(SIGXFSZ),
        NAMED(SIGVTALRM), NAMED(SIGPROF), NAMED(SIGWINCH), NAMED(SIGPOLL), NAMED(SIGPWR), NAMED(SIGSYS),
    };
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        if (!strcmp(name, names[n].name))
            return names[n].number;
    return 0;
}

/* The index of PROGRAM; 0 when all is said and `*status` is how to exit. */
static int parse(int argc, char **argv, int *status)
{
    int option;
    char *end;
    *status = 1;
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        puts(VERSION_TEXT);
        *status = 0;
        return 0;
    }
    while ((option = getopt(argc, argv, "+hvwgsle:p:")) != -1)
        switch (option) {
        case 'h':
            *status = usage(stdout);
            return 0;
        case 'l':
            puts("Apache License 2.0; see https://www.apache.org/licenses/LICENSE-2.0");
            *status = 0;
            return 0;
        case 'v': options.verbosity++; break;
        case 'w': options.warn_reaped = 1; break;
        case 'g': options.whole_group = 1; break;
        case 's': options.subreaper = 1; break;
        case 'p':
            if (!(options.parent_signal = signal_number(optarg))) {
                FATAL("Not a valid option for -p: %s", optarg);
                return 0;
            }
            break;
        case 'e': {
            long code = strtol(optarg, &end, 10);
            if (end == optarg || *end || code < 0 || code > 255) {
                FATAL("Not a valid option for -e: %s", optarg);
                return 0;
            }
            options.forgiven[code] = 1;
            break;
        }
        default:
            usage(stderr);
            return 0;
        }
    if (optind >= argc) {
        usage(stderr);
        return 0;
    }
    return optind;
}

static void environment(void)
{
    const char *verbosity = getenv("TINI_VERBOSITY");
    options.subreaper |= getenv("TINI_SUBREAPER") != NULL;
    options.whole_group |= getenv("TINI_KILL_PROCESS_GROUP") != NULL;
    if (verbosity)
        options.verbosity = atoi(verbosity);
}

/* In the child: its own group, in the foreground where there is a terminal, signals as they were. */
static void become(char **argv, const sigset_t *before)
{
    struct sigaction initial = {.sa_handler = SIG_DFL};
    if (setpgid(0, 0) < 0)
        FATAL("setpgid failed: %s", strerror(errno)), _exit(1);
    /* SIGTTOU is ignored so far, or this would stop us. */
    if (tcsetpgrp(STDIN_FILENO, getpgrp()) < 0 && errno != ENOTTY && errno != ENXIO && errno != EBADF)
        DEBUG("tcsetpgrp failed: %s", strerror(errno));
    sigaction(SIGTTIN, &initial, NULL);
    sigaction(SIGTTOU, &initial, NULL);
    sigprocmask(SIG_SETMASK, before, NULL);
    execvp(argv[0], argv);
    int status = errno == ENOENT ? 127 : errno == EACCES ? 126 : 1;
    FATAL("exec %s failed: %s", argv[0], strerror(errno));
    _exit(status);
}

/* The child's exit code once it has ended, else -1. */
static int reap(pid_t child)
{
    int status, code = -1;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        DEBUG("Reaped child with pid: '%d'", (int)pid);
        if (pid == child) {
            code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            code = options.forgiven[code & 255] ? 0 : code & 255;
        } else if (options.warn_reaped) {
            WARN("Reaped zombie process with pid=%d", (int)pid);
        }
    }
    return code;
}

static void pass_on(int number, pid_t child)
{
    DEBUG("Passing signal: '%s'", strsignal(number));
    if (kill(options.whole_group ? -child : child, number) < 0 && errno == ESRCH)
        WARN("Child was dead when forwarding signal");
}

int main(int argc, char **argv)
{
    static const int own[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS, SIGTTIN, SIGTTOU};
    static const struct timespec turn = {.tv_sec = 1};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t caught, before;
    int status, program = parse(argc, argv, &status);
    if (!program)
        return status;
    environment();
    sigfillset(&caught);
    for (size_t n = 0; n < sizeof own / sizeof *own; n++)
        sigdelset(&caught, own[n]);
    sigprocmask(SIG_SETMASK, &caught, &before);
    /* A child in the foreground must not stop us when we say something. */
    sigaction(SIGTTIN, &ignore, NULL);
    sigaction(SIGTTOU, &ignore, NULL);
    if (options.parent_signal)
        prctl(PR_SET_PDEATHSIG, options.parent_signal);
    if (options.subreaper && prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        FATAL("prctl failed: %s", strerror(errno));
    if (!options.subreaper && getpid() != 1)
        WARN("Tini is not running as PID 1 and isn't registered as a child subreaper.\n"
             "Zombie processes will not be re-parented to Tini, so zombie reaping won't work.\n"
             "To fix the problem, use the -s option or set the environment variable TINI_SUBREAPER to register "
             "Tini as a child subreaper, or run Tini as PID 1.");
    pid_t child = fork();
    if (child < 0) {
        FATAL("fork failed: %s", strerror(errno));
        return 1;
    }
    if (!child)
        become(argv + program, &before);
    setpgid(child, child); /* here too: a signal for the group may come before the child has done it */
    for (;;) {
        int number = sigtimedwait(&caught, NULL, &turn);
        if (number > 0 && number != SIGCHLD)
            pass_on(number, child);
        if ((status = reap(child)) >= 0)
            return status;
    }
}
