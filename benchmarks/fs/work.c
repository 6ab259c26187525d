/* The load that the file system benchmarks put on a mount, timed from within so that nothing else is measured:
 *
 *   work time COMMAND...                 runs it, output thrown away
 *   work read FILE [BLOCK]               from the start to the end
 *   work each LIST DIRECTORY             opens, reads and closes every file of LIST, a path below DIRECTORY a line
 *   work append FILE COUNT               COUNT writes of 4 KiB into a new file
 *   work create DIRECTORY COUNT          COUNT new empty files
 *   work patch FILE OFFSET               one write of 4 KiB
 *   work probe FILE COUNT MICROSECONDS   COUNT reads of 4 KiB, each in another 128 KiB, with a pause before each
 *   work log FILE COUNT MICROSECONDS     COUNT appends of 64 bytes to a new file, with a pause before each
 *   work hold FILE                       opens it, reads three places, says so, and keeps it until stdin ends
 *
 * Each prints its seconds on one line, and the bytes where it has any; `probe` and `log` print a line for each call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (128 << 10)

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what)
{
	fprintf(stderr, "work: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int opened(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);
	if (fd < 0)
		die(path);
	return fd;
}

static long long drain(int fd, char *buffer, size_t block, const char *path)
{
	long long bytes = 0;
	for (;;) {
		ssize_t n = read(fd, buffer, block);
		if (n < 0)
			die(path);
		if (n == 0)
			return bytes;
		bytes += n;
	}
}

static void *block_of(size_t size)
{
	void *block;
	if (posix_memalign(&block, 4096, size))
		die("memory");
	memset(block, 7, size);
	return block;
}

static int command(char **argv)
{
	double start = now();
	int status;
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		dup2(open("/dev/null", O_RDWR), 1);
		execvp(argv[0], argv);
		die(argv[0]);
	}
	if (waitpid(child, &status, 0) < 0)
		die("waitpid");
	printf("%.9f\n", now() - start);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int read_all(const char *path, size_t block)
{
	char *buffer = block_of(block);
	double start = now();
	int fd = opened(path, O_RDONLY);
	long long bytes = drain(fd, buffer, block, path);
	close(fd);
	printf("%.9f %lld\n", now() - start, bytes);
	return 0;
}

static int each(const char *list, const char *directory)
{
	size_t block = 1 << 20, room = 0, count = 0;
	char *buffer = block_of(block), *line = NULL, **paths = NULL;
	FILE *file = fopen(list, "r");
	ssize_t length;
	long long bytes = 0;
	if (!file)
		die(list);
	while ((length = getline(&line, &room, file)) > 0) {
		line[length - 1] = 0;
		paths = realloc(paths, (count + 1) * sizeof *paths);
		paths[count++] = strdup(line);
	}
	if (chdir(directory))
		die(directory);
	double start = now();
	for (size_t i = 0; i < count; i++) {
		int fd = opened(paths[i], O_RDONLY);
		bytes += drain(fd, buffer, block, paths[i]);
		close(fd);
	}
	printf("%.9f %lld\n", now() - start, bytes);
	return 0;
}

static int append(const char *path, long count)
{
	char *buffer = block_of(4096);
	double start = now();
	int fd = opened(path, O_WRONLY | O_CREAT | O_EXCL);
	for (long i = 0; i < count; i++)
		if (write(fd, buffer, 4096) != 4096)
			die(path);
	close(fd);
	printf("%.9f %lld\n", now() - start, 4096LL * count);
	return 0;
}

static int create(const char *directory, long count)
{
	char name[32];
	if (chdir(directory))
		die(directory);
	double start = now();
	for (long i = 0; i < count; i++) {
		snprintf(name, sizeof name, "file-%ld", i);
		close(opened(name, O_WRONLY | O_CREAT | O_EXCL));
	}
	printf("%.9f\n", now() - start);
	return 0;
}

static int patch(const char *path, off_t offset)
{
	char *buffer = block_of(4096);
	double start = now();
	int fd = opened(path, O_WRONLY);
	if (pwrite(fd, buffer, 4096, offset) != 4096)
		die(path);
	close(fd);
	printf("%.9f 4096\n", now() - start);
	return 0;
}

static int probe(const char *path, long count, long pause)
{
	char *buffer = block_of(4096);
	int fd = opened(path, O_RDONLY);
	struct stat status;
	if (fstat(fd, &status))
		die(path);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	uint64_t chunks = status.st_size / CHUNK, at = 0;
	/* a stride that is prime to the number of chunks meets each once, and no neighbour next */
	uint64_t stride = chunks * 618 / 1000 | 1;
	for (long i = 0; i < count && (uint64_t)i < chunks; i++) {
		usleep(pause);
		at = (at + stride) % chunks;
		double start = now();
		if (pread(fd, buffer, 4096, at * CHUNK) != 4096)
			die(path);
		printf("%.9f\n", now() - start);
		fflush(stdout);
	}
	return 0;
}

static int append_lines(const char *path, long count, long pause)
{
	char *buffer = block_of(4096);
	int fd = opened(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND);
	for (long i = 0; i < count; i++) {
		usleep(pause);
		double start = now();
		if (write(fd, buffer, 64) != 64)
			die(path);
		printf("%.9f\n", now() - start);
		fflush(stdout);
	}
	return 0;
}

static int hold(const char *path)
{
	char *buffer = block_of(4096);
	int fd = opened(path, O_RDONLY);
	off_t size = lseek(fd, 0, SEEK_END);
	for (int i = 0; i < 3; i++)
		if (pread(fd, buffer, 4096, (size - 4096) / 2 * i) != 4096)
			die(path);
	printf("holding\n");
	fflush(stdout);
	while (read(0, buffer, 4096) > 0)
		;
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	if (!strcmp(what, "time"))
		return command(argv + 2);
	if (!strcmp(what, "read"))
		return read_all(argv[2], argc > 3 ? atol(argv[3]) : 1 << 20);
	if (!strcmp(what, "each") && argc > 3)
		return each(argv[2], argv[3]);
	if (!strcmp(what, "append") && argc > 3)
		return append(argv[2], atol(argv[3]));
	if (!strcmp(what, "create") && argc > 3)
		return create(argv[2], atol(argv[3]));
	if (!strcmp(what, "patch") && argc > 3)
		return patch(argv[2], atoll(argv[3]));
	if (!strcmp(what, "probe") && argc > 4)
		return probe(argv[2], atol(argv[3]), atol(argv[4]));
	if (!strcmp(what, "log") && argc > 4)
		return append_lines(argv[2], atol(argv[3]), atol(argv[4]));
	if (!strcmp(what, "hold"))
		return hold(argv[2]);
	fprintf(stderr, "work: see the source for its use\n");
	return 2;
}
