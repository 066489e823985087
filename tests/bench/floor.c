/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor for a metrics sample: the same files, kept open, read with pread, the same numbers taken out of them, in C.
 *
 *   floor ROUNDS < list      list: one "KIND PATH" a line; KIND says what is taken out:
 *                            a key (the number after it), "=" (the file is one number), "io", "net", "psi"
 *
 * Prints nanoseconds of CPU time for one round over all files, and a checksum that keeps the compiler honest.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FILES 2048
#define SIZE 16384

static struct { char kind[64]; int fd; } files[FILES];
static char data[SIZE + 1];

static double number_after(const char *key)
{
	size_t length = strlen(key);
	for (const char *line = data; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
		if (!strncmp(line, key, length) && line[length] == ' ')
			return strtoull(line + length, NULL, 10);
	return 0;
}

static double sum_after(const char *key)
{
	double sum = 0;
	for (const char *at = data; (at = strstr(at, key)); sum += strtoull(at += strlen(key), NULL, 10))
		;
	return sum;
}

static double network(void)
{
	double sum = 0;
	char *line = strchr(data, '\n');
	line = line ? strchr(line + 1, '\n') : NULL;
	while (line && line[1]) {
		char *at = strchr(++line, ':');
		if (at && strncmp(at - 2, "lo", 2))
			for (int column = 0; column < 9; column++) {
				double value = strtoull(at + 1, &at, 10);
				at--;
				if (column == 0 || column == 8)
					sum += value;
			}
		line = strchr(line, '\n');
	}
	return sum;
}

static double take(const char *kind)
{
	if (!strcmp(kind, "="))
		return strtoull(data, NULL, 10);
	if (!strcmp(kind, "io"))
		return sum_after("rbytes=") + sum_after("wbytes=");
	if (!strcmp(kind, "net"))
		return network();
	if (!strcmp(kind, "psi"))
		return strtod(data + strlen("some avg10="), NULL);
	return number_after(kind);
}

int main(int count, char **arguments)
{
	char path[4096];
	int n = 0, rounds = count > 1 ? atoi(arguments[1]) : 1;
	double sum = 0;
	struct timespec before, after;

	for (; n < FILES && scanf("%63s %4095[^\n]", files[n].kind, path) == 2; n++)
		if ((files[n].fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
			return perror(path), 1;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < n; i++) {
			ssize_t length = pread(files[i].fd, data, SIZE, 0);
			data[length < 0 ? 0 : length] = 0;
			sum += take(files[i].kind);
		}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	printf("%.0f %g\n", ((after.tv_sec - before.tv_sec) * 1e9 + after.tv_nsec - before.tv_nsec) / rounds, sum);
	return 0;
}
