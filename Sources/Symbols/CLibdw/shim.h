// SPDX-License-Identifier: Apache-2.0
// elfutils: ELF files, DWARF, and the links from a program to its separate debug file.
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <gelf.h>
