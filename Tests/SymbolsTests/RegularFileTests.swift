// SPDX-License-Identifier: Apache-2.0
// Files that somebody has named: what is no stored bytes is not opened, not even for a moment.

import ByteText
import FileFacts
import Foundation
import TestSupport
import Testing

@Suite(.bounded) struct RegularFileTests {
  private func refusal(of path: String, sizeLimit: UInt64 = .max) -> RegularFile.Refusal? {
    do throws(RegularFile.Refusal) {
      _ = try RegularFile(path: ForeignText(path), sizeLimit: sizeLimit)
      return nil
    } catch { return error }
  }

  @Test("a regular file is opened, by its own name or a link, and read")
  func regular() throws {
    let directory = try TestDirectory()
    try Data("contents".utf8).write(to: URL(fileURLWithPath: directory.file("file")))
    try FileManager.default.createSymbolicLink(
      atPath: directory.file("link"), withDestinationPath: directory.file("file"))
    for name in ["file", "link"] {
      let file = try RegularFile(path: ForeignText(directory.file(name)))
      #expect(file.size == 8 && file.isUnchanged)
      #expect(file.bytes(at: 3, count: 100) == Array("tents".utf8))
      #expect(file.bytes(at: .max, count: 1) == [])
      #expect(file.duplicate()?.bytes(at: 0, count: 1) == Array("c".utf8))
    }
    #expect(refusal(of: directory.file("file"), sizeLimit: 7) == .tooLarge)
    #expect(refusal(of: directory.file("none")) == .system(ENOENT))
    #expect(refusal(of: String(repeating: "/x", count: 100_000)) == .system(ENAMETOOLONG))
  }

  @Test("a directory, pipe, socket or device, and what the kernel makes up, are refused")
  func others() throws {
    let directory = try TestDirectory()
    let pipe = directory.file("pipe")
    #expect(mkfifo(pipe, 0o600) == 0)
    let socket = directory.file("socket")
    #expect(mknod(socket, S_IFSOCK | 0o600, 0) == 0)
    for path in [
      directory.path, pipe, socket, "/dev/null", "/dev/zero", "/proc/self/environ", "/proc/self/maps", "/proc/version",
      "/sys/kernel/notes",
    ] where access(path, F_OK) == 0 {
      #expect(refusal(of: path) == .notRegular, "\(path)")
    }
  }

  @Test("nobody who watches a pipe sees it opened")
  func pipeIsNotOpened() throws {
    let directory = try TestDirectory()
    let pipe = directory.file("pipe")
    #expect(mkfifo(pipe, 0o600) == 0)
    let watch = inotify_init1(Int32(O_NONBLOCK))
    defer { close(watch) }
    try #require(watch >= 0 && inotify_add_watch(watch, pipe, UInt32(IN_OPEN)) >= 0)
    #expect(refusal(of: pipe) == .notRegular)
    var events = [UInt8](repeating: 0, count: 4096)
    #expect(read(watch, &events, events.count) == -1 && errno == EAGAIN)
    // The watch does see an opening.
    close(open(pipe, O_RDONLY | O_NONBLOCK | O_CLOEXEC))
    #expect(read(watch, &events, events.count) > 0)
  }
}
