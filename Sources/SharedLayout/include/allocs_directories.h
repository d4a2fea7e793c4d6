// SPDX-License-Identifier: Apache-2.0
// Where segments lie, for processes without ALLOCS_DIR. Each user has a directory, mode 0700, which
// nobody else can write to; U is the user's number:
//
//   /run/allocs/U          made by root's allocsd, in a directory that is root's alone
//   /run/user/U/allocs     where systemd has made /run/user/U for the user
//   /dev/shm/allocs-U      otherwise
//
// An agent takes the first of them that is there, or can be made, and that belongs to its user. The
// layout before had one directory for all users, mode 1777: /run/allocs itself, made at boot; else
// /dev/shm/allocs. Where /run/allocs is of that kind, agents go on to use it, because an older
// allocsd looks there alone. Readers look into all of these places.
//
// Threat: anybody may make a directory in /dev/shm, under any name. A directory counts only if
// it is reached without a symbolic link, belongs to the user whose it is meant to be, and lets
// nobody else write; of the older kind, only if it belongs to root and has the sticky bit.

#ifndef ALLOCS_DIRECTORIES_H
#define ALLOCS_DIRECTORIES_H

#include <stdint.h>

// In the order in which an agent tries them.
enum allocs_place {
  ALLOCS_PLACE_OF_ROOT = 0,  // /run/allocs/U
  ALLOCS_PLACE_COMMON,       // /run/allocs, of the layout before
  ALLOCS_PLACE_OF_SESSION,   // /run/user/U/allocs
  ALLOCS_PLACE_IN_MEMORY,    // /dev/shm/allocs-U
  ALLOCS_PLACE_COUNT
};

// The directory that has the user's own, up to the user's number if it ends in that.
static inline const char *allocs_parent_of_place(uint32_t place) {
  switch (place) {
    case ALLOCS_PLACE_OF_ROOT:
    case ALLOCS_PLACE_COMMON: return "/run/allocs";
    case ALLOCS_PLACE_OF_SESSION: return "/run/user/";
    default: return "/dev/shm";
  }
}

// The user's own directory in that directory, up to the user's number if it ends in that.
static inline const char *allocs_name_of_place(uint32_t place) {
  switch (place) {
    case ALLOCS_PLACE_OF_ROOT: return "";
    case ALLOCS_PLACE_COMMON: return ".";
    case ALLOCS_PLACE_OF_SESSION: return "allocs";
    default: return "allocs-";
  }
}

// The second directory of the layout before: it is read, and nothing is made in it any more.
static inline const char *allocs_former_directory(void) { return "/dev/shm/allocs"; }

#endif
