/* Starts the runtime, sealed, with one start of the interpreter instead of two.
 *
 * longshore.linux.seal says why the executable of what enters a container must
 * be read-only, and does it from inside: by executing the interpreter again.
 * Here the interpreter's mount is cloned, made read-only and executed at once.
 * Where that can't be done (no rights, an old kernel) the interpreter is
 * executed as it is, and seals itself.
 *
 * Compiled by longshore.oci.native with PYTHON, the interpreter, and ARGUMENTS, what
 * comes before those of the command line; the verbs are those of longshore.oci.main.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OPEN_TREE 428
#define MOUNT_SETATTR 442
#define OPEN_TREE_CLONE 1
#define MOUNT_ATTR_RDONLY 1

extern char **environ;

__attribute__((used)) static const char mark[] = MARK;

static int entering(int argc, char **argv)
{
    for (int n = 1; n < argc; n++)
        if (!strcmp(argv[n], "create") || !strcmp(argv[n], "run") || !strcmp(argv[n], "exec"))
            return 1;
    return 0;
}

static void execute_sealed(char **arguments)
{
    uint64_t attributes[4] = {MOUNT_ATTR_RDONLY, 0, 0, 0};
    int fd = syscall(OPEN_TREE, AT_FDCWD, PYTHON, OPEN_TREE_CLONE | O_CLOEXEC);
    if (fd < 0)
        return;
    if (!syscall(MOUNT_SETATTR, fd, "", AT_EMPTY_PATH, attributes, sizeof attributes))
        syscall(SYS_execveat, fd, "", arguments, environ, AT_EMPTY_PATH);
    close(fd);
}

int main(int argc, char **argv)
{
    static char *const given[] = {PYTHON, ARGUMENTS};
    int n = sizeof given / sizeof *given;
    char **arguments = calloc(n + argc, sizeof *arguments);
    if (!arguments)
        return 1;
    memcpy(arguments, given, sizeof given);
    for (int m = 1; m < argc; m++)
        arguments[n++] = argv[m];
    if (entering(argc, argv))
        execute_sealed(arguments);
    execv(PYTHON, arguments);
    perror("runc: " PYTHON);
    return 1;
}
