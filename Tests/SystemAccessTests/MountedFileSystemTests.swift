// SPDX-License-Identifier: Apache-2.0
// Which file systems are asked anything, by the kernel's table of mounts.

import Glibc
import TestSupport
import Testing

@testable import SystemAccess

@Suite("the kind of a mounted file system", .bounded)
struct MountedFileSystemTests {
  private static let mounts = Array(
    """
    25 1 0:23 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
    251 25 0:50 / /run/user/1000 rw,nosuid shared:9 master:3 - fuse.mine mine rw,user_id=1000
    7 25 0:51 / /run/user/\\0407 rw - fuseblk /dev/x rw
    8 25 0:52 / /broken

    """.utf8)

  @Test("a mount is found by its whole number; a user's own file system is told from the kernel's")
  func kinds() {
    func kind(_ id: String) -> String? { MountedFileSystem.kind(ofMount: Array(id.utf8), in: Self.mounts) }
    #expect(kind("25") == "tmpfs" && kind("251") == "fuse.mine" && kind("7") == "fuseblk")
    #expect(kind("8") == nil && kind("2") == nil && kind("") == nil)
    #expect(["fuse.mine", "fuseblk", "fuse", "nfs4", "autofs"].allSatisfy { !MountedFileSystem.isOfKernel($0) })
    #expect(["tmpfs", "ext4", "overlay"].allSatisfy(MountedFileSystem.isOfKernel))
    let shm = open("/dev/shm", __O_PATH | O_CLOEXEC)
    #expect(MountedFileSystem.answers(shm))
    close(shm)
  }
}
