// SPDX-License-Identifier: Apache-2.0
// The segments of one directory, found in pieces, for a reader that must not be kept by any one
// user: whoever has very many files, or files that take long to look at, gets no more time for
// that.
//
// - The names are read first, with the owners of the files. Of each owner, the newest
//   `SegmentDirectory.mostOfOwner` are kept, as `SegmentDirectory.survey` does.
// - Nothing is read that can take long: neither the mappings of processes nor all processes.

import Glibc
import SystemAccess

/// A scan of one directory that has begun. One thread uses it.
package final class DirectoryScan {
  /// Owns the directory, and its stream of names.
  private struct Source: ~Copyable {
    let directory: OpenDirectory
    let stream: OpaquePointer
    deinit { closedir(stream) }
  }

  private struct Found {
    var name: OpenDirectory.Name
    var modified: Int
  }

  package let path: String
  /// The user whose rights on files are needed, and enough, for this directory.
  package let actor: UInt32
  /// Segments that are left out, by their owner.
  package private(set) var omitted: [UInt32: Int] = [:]
  /// Whether there are names besides those of segments and control files.
  package private(set) var hasSurplus = false
  /// Seconds that the scan has taken.
  package private(set) var time = 0.0
  private let source: Source
  private var byOwner: [UInt32: [Found]] = [:]
  private var names: [OpenDirectory.Name] = []
  private var isRead = false
  private var seen = 0

  private static let mostNames = 1 << 20

  /// Nil if the directory is missing or not trusted. Throws `.system` if descriptors are short.
  package init?(_ path: String) throws(Complaint) {
    guard let directory = try OpenDirectory(path: path) else { return nil }
    let readable = openat(directory.descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard readable >= 0 else {
      let code = errno
      guard isShortage(code) else { return nil }
      throw .system(path: path, operation: "look for segments in", why: systemWords(code))
    }
    guard let stream = fdopendir(readable) else {
      close(readable)
      return nil
    }
    self.path = path
    actor = directory.checked.isShared ? 0 : directory.checked.ownerID
    source = Source(directory: directory, stream: stream)
  }

  /// Goes on until then (CLOCK_MONOTONIC), by a few files at least. Returns the segments that were
  /// found meanwhile, and whether these were the last.
  package func step(until end: Double) -> (files: [SegmentFile], isLast: Bool) {
    let began = seconds(of: CLOCK_MONOTONIC)
    defer { time += seconds(of: CLOCK_MONOTONIC) - began }  // bounded: seconds in floating point
    guard isRead || readNames(until: end) else { return ([], false) }
    var files: [SegmentFile] = []
    var count = 0
    while let name = names.popLast() {
      let text = name.segment
      if let file = source.directory.segment(name: text, processID: name.processID, startTime: name.startTime) {
        files.append(file)
      }
      count += 1
      if count % 8 == 0, seconds(of: CLOCK_MONOTONIC) >= end { break }
    }
    return (files, names.isEmpty)
  }

  /// Whether the directory that was opened has a regular file of this name now. Follows no link,
  /// and asks no other file system than the directory's: a user's own one answers when it likes.
  package func hasFile(named name: String) -> Bool {
    guard let status = ownStatus(of: name, in: source.directory.descriptor) else { return false }
    return status.st_mode & S_IFMT == S_IFREG
  }

  /// Returns whether all names have been read.
  private func readNames(until end: Double) -> Bool {
    let reader = geteuid()
    let most = SegmentDirectory.mostOfOwner
    var read = 0
    while seen < Self.mostNames {
      // Before the next name is taken: it would be lost.
      if read >= 32, read % 32 == 0, seconds(of: CLOCK_MONOTONIC) >= end { return false }
      guard let entry = readdir(source.stream) else { break }
      seen += 1
      read += 1
      let directoryOwner = source.directory.checked.ownerID
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        let bytes = bytes.prefix { $0 != 0 }
        let name = OpenDirectory.Name(UnsafeRawBufferPointer(rebasing: bytes))
        let dots = bytes.count <= 2 && bytes.allSatisfy { $0 == UInt8(ascii: ".") }
        if name == nil, !dots, !hasSurplus, !SweeperMark.isMark(bytes, inDirectoryOf: directoryOwner) {
          hasSurplus = true
        }
        return name
      }
      guard let name, name.isSegment,
        let status = ownStatus(of: name.segment, in: source.directory.descriptor),
        reader == 0 || status.st_uid == reader
      else { continue }
      let owner = status.st_uid
      byOwner[owner, default: []].append(Found(name: name, modified: status.st_mtim.tv_sec))
      if byOwner[owner, default: []].count / 2 >= most { trim(owner) }
    }
    for owner in byOwner.keys { trim(owner) }
    names = byOwner.values.flatMap { $0.map(\.name) }
    byOwner = [:]
    isRead = true
    return true
  }

  private func trim(_ owner: UInt32) {
    guard let found = byOwner[owner], found.count > SegmentDirectory.mostOfOwner else { return }
    omitted[owner, default: 0] &+= found.count &- SegmentDirectory.mostOfOwner
    byOwner[owner] = Array(found.sorted { $0.modified > $1.modified }.prefix(SegmentDirectory.mostOfOwner))
  }
}
