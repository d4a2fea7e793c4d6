// SPDX-License-Identifier: Apache-2.0
// A pipe that no child of another test gets: such a child would keep its end open, and what waits for that end waits.

import Glibc

/// The ends of a new pipe, closed when a program starts. Both must be closed by the caller.
package func makePipe() throws -> (read: Int32, write: Int32) {
  // pipe2 is not among what Swift sees of glibc, and pipe leaves a moment for a child to come.
  let path = unusedPath("pipe")
  guard mkfifo(path, 0o600) == 0 else { throw HarnessError("mkfifo \(path): \(String(cString: strerror(errno)))") }
  defer { unlink(path) }
  let read = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
  let write = open(path, O_WRONLY | O_CLOEXEC)
  guard read >= 0, write >= 0, fcntl(read, F_SETFL, 0) == 0 else {
    throw HarnessError("open \(path): \(String(cString: strerror(errno)))")
  }
  return (read, write)
}
