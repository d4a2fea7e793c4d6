// What Swift's module of the C library leaves out: extended attributes of files, and the names of signals.
#include <sys/xattr.h>

// Only GNU's: <string.h> hides it from modules.
const char *sigabbrev_np(int signal);
