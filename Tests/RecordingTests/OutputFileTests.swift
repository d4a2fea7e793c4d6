// SPDX-License-Identifier: Apache-2.0
// Files that are written, in directories where others may write, too.

import Glibc
import TestSupport
import Testing

@testable import Recording

private func write(_ text: String, to path: String) throws(OutputFile.Failure) {
  var file = try OutputFile(path: path)
  try file.write(Array(text.utf8))
  try file.publish(isWhole: true)
}

private func text(_ path: String) throws -> String {
  String(decoding: try [UInt8](contentsOfFile: path), as: UTF8.self)
}

private func status(_ path: String) throws -> stat {
  var status = stat()
  try #require(lstat(path, &status) == 0, "\(path)")
  return status
}

@Suite("output files", .bounded)
struct OutputFileTests {
  @Test("a free name gets the file, for its owner alone, when it is published")
  func free() throws {
    let directory = try TestDirectory()
    let path = directory.file("out")
    do {
      var file = try OutputFile(path: path)
      try file.write([1, 2])
      #expect(access(path, F_OK) != 0)
      try file.publish(isWhole: false)
      #expect(try status(path).st_mode == S_IFREG | 0o600)
      // What is written later goes to the file, wherever its name is by then.
      try file.write([3])
      #expect(try [UInt8](contentsOfFile: path) == [1, 2, 3])
    }
    #expect(try directory.names() == ["out"])
  }

  @Test("a file that is not published leaves nothing, and what was there stays")
  func abandoned() throws {
    let directory = try TestDirectory()
    let path = try directory.write("old", to: "out")
    do {
      let file = try OutputFile(path: path)
      try file.write(Array("new".utf8))
    }
    #expect(try text(path) == "old" && directory.names() == ["out"])
  }

  @Test("a file of the caller's own is replaced; its hard links and those who have it open keep the old one")
  func replaced() throws {
    let directory = try TestDirectory()
    let path = try directory.write("old", to: "out")
    let other = directory.file("link")
    try #require(link(path, other) == 0)
    let old = try status(path)
    try write("new", to: path)
    #expect(try text(path) == "new" && text(other) == "old")
    #expect(try status(path).st_ino != old.st_ino && directory.names() == ["link", "out"])
  }

  @Test("links, directories, sockets and devices are refused, and left as they are")
  func refused() throws {
    let directory = try TestDirectory()
    let victim = try directory.write("victim", to: "victim")
    let link = directory.file("link")
    try #require(symlink(victim, link) == 0)
    let dangling = directory.file("dangling")
    try #require(symlink(directory.file("made"), dangling) == 0)
    try #require(mkdir(directory.file("directory"), 0o700) == 0)
    let socket = directory.file("socket")
    try #require(mknod(socket, S_IFSOCK | 0o600, 0) == 0)
    for (path, word) in [
      (link, "symbolic link"), (dangling, "symbolic link"), (directory.file("directory"), "directory"),
      (directory.path, "directory"), (directory.path + "/", "directory"), (directory.file("."), "directory"),
      (socket, "socket"), ("/dev/random", "device"), ("/nonexistent/out", "No such file"),
      (victim + "/out", "Not a directory"), ("/dev/fd/999999", "Bad file descriptor"),
    ] {
      do throws(OutputFile.Failure) {
        try write("new", to: path)
        Issue.record("\(path) was written")
      } catch {
        #expect(error.words.contains(word), "\(path): \(error.words)")
      }
    }
    #expect(try text(victim) == "victim")
    #expect(try directory.names() == ["dangling", "directory", "link", "socket", "victim"])
  }

  @Test(
    "another user's file or pipe is refused, also by root in a sticky directory",
    .enabled(if: geteuid() == 0, "needs root to make another user's file"))
  func foreign() throws {
    let directory = try TestDirectory()
    try #require(chmod(directory.path, 0o1777) == 0)
    let path = try directory.write("theirs", to: "out")
    let pipe = directory.file("pipe")
    try #require(chown(path, 65534, 65534) == 0 && mkfifo(pipe, 0o622) == 0 && chown(pipe, 65534, 65534) == 0)
    for path in [path, pipe] {
      do throws(OutputFile.Failure) {
        try write("new", to: path)
        Issue.record("\(path) was written")
      } catch {
        #expect(error.words == "it belongs to user 65534")
      }
    }
    #expect(try text(path) == "theirs" && directory.names() == ["out", "pipe"])
  }

  @Test("what comes to the name meanwhile is not overwritten through, nor is another user's file replaced")
  func meanwhile() throws {
    let directory = try TestDirectory()
    let victim = try directory.write("victim", to: "victim")
    let path = directory.file("out")
    do {
      var file = try OutputFile(path: path)
      try #require(symlink(victim, path) == 0)
      #expect(throws: OutputFile.Failure.self) { try file.publish(isWhole: false) }
    }
    #expect(try text(victim) == "victim" && directory.names() == ["out", "victim"])
    unlink(path)
    // A file of the caller's own that comes is replaced, as one that was there.
    do {
      var file = try OutputFile(path: path)
      try file.write(Array("new".utf8))
      _ = try directory.write("old", to: "out")
      try file.publish(isWhole: false)
    }
    #expect(try text(path) == "new")
    if geteuid() == 0 {
      do {
        var file = try OutputFile(path: path)
        try #require(unlink(path) == 0)
        _ = try directory.write("theirs", to: "out")
        try #require(chown(path, 65534, 65534) == 0)
        #expect(throws: OutputFile.Failure.self) { try file.publish(isWhole: false) }
      }
      #expect(try text(path) == "theirs")
    }
    #expect(try directory.names() == ["out", "victim"])
  }

  @Test("a pipe of the caller's own, /dev/null and the caller's descriptors are written to")
  func streams() throws {
    let directory = try TestDirectory()
    let pipe = directory.file("pipe")
    try #require(mkfifo(pipe, 0o600) == 0)
    let reader = open(pipe, O_RDWR | O_CLOEXEC)
    try #require(reader >= 0)
    defer { close(reader) }
    try write("piped", to: pipe)
    try write("more", to: "/dev/fd/\(reader)")
    var bytes = [UInt8](repeating: 0, count: 16)
    #expect(read(reader, &bytes, 16) == 9 && String(decoding: bytes.prefix(9), as: UTF8.self) == "pipedmore")
    try write("gone", to: "/dev/null")
    #expect(try directory.names() == ["pipe"])
  }
}
