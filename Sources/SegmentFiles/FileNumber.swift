// SPDX-License-Identifier: Apache-2.0
// Which file it is, whatever its name. A segment of a followed child has no name at first; a
// directory may be renamed, or be known to another process by another name.

import Bounds
import ByteText
import CLibrary
import COpening
import Glibc

/// lstat(2) of a name in an open directory, or of a path, which asks no file system of a user's
/// making that is mounted over the file: it may keep whoever asks waiting for ever. Nil where there
/// is nothing, or where that is so of a name.
package func ownStatus(of name: String, in directory: Int32 = AT_FDCWD) -> stat? {
  var status = stat()
  return allocs_look_at(directory, name.originalPath, &status) == 0 ? status : nil
}

/// A file system's device and the number of a file on it, as stat(2) gives them.
package struct FileNumber: Hashable, Sendable {
  package var device: UInt64
  package var inode: UInt64

  package init(device: UInt64, inode: UInt64) {
    self.device = device
    self.inode = inode
  }

  package init(_ status: stat) {
    self.init(device: UInt64(truncatingIfNeeded: status.st_dev), inode: UInt64(truncatingIfNeeded: status.st_ino))
  }

  /// The number of the file at `path` itself: for a symbolic link, the number of the link, not of
  /// the link's target. Nil if there is no file.
  package init?(path: String) {
    guard let status = ownStatus(of: path) else { return nil }
    self.init(status)
  }

  /// From the two numbers of a device that /proc/PID/maps has: stat(2) makes one number of them
  /// (makedev(3)).
  package init(major: UInt32, minor: UInt32, inode: UInt64) {
    let (major, minor) = (UInt64(truncatingIfNeeded: major), UInt64(truncatingIfNeeded: minor))
    device = (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff
    self.inode = inode
  }
}

/// The processes of the machine and the files that they have mapped, as far as the caller may know
/// them.
enum RunningProcesses {
  /// The ids of all processes but this one.
  static var ids: [Int32] {
    guard let stream = opendir("/proc") else { return [] }
    defer { closedir(stream) }
    var ids: [Int32] = []
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      if let id = Int32(name), id != getpid() { ids.append(id) }
    }
    return ids
  }

  /// The files that a process has mapped so that it shares what it writes to them, as an agent maps
  /// a segment. None where the caller may not know; nil if they are too many.
  static func writtenFiles(ofProcess id: Int32) -> Set<FileNumber>? {
    guard let directory = try? ProcessDirectory(processID: id) else { return [] }
    return writtenFiles(of: directory)
  }

  /// Bytes of the text of /proc/PID/maps that are read: any user can have very many mappings.
  private static let mostMaps = 32 << 20

  static func writtenFiles(of directory: borrowing ProcessDirectory) -> Set<FileNumber>? {
    guard let text = try? directory.read("maps", limit: mostMaps) else { return [] }
    return text.count < mostMaps ? text.withUnsafeBytes(writtenFiles) : nil
  }

  /// The files in the text of /proc/PID/maps. Few lines are of such mappings, so the text is
  /// searched for their permissions.
  private static func writtenFiles(in text: UnsafeRawBufferPointer) -> Set<FileNumber> {
    var files: Set<FileNumber> = []
    let wanted = " rw-s "
    var place = 0
    // bounded: `place` is in the text, or at its end
    while place < text.count, let start = text.baseAddress,
      let found = memmem(start + place, UInt(text.count - place), wanted, UInt(wanted.utf8.count))
    {
      place = found - UnsafeMutableRawPointer(mutating: start) + wanted.utf8.count
      // … offset major:minor inode   path
      let rest = text[place...].prefix(128).prefix { $0 != UInt8(ascii: "\n") }
      let fields = rest.split(separator: UInt8(ascii: " "), maxSplits: 3).map { String(decoding: $0, as: UTF8.self) }
      guard fields.count >= 3 else { continue }
      let device = fields[1].split(separator: ":").compactMap { UInt32($0, radix: 16) }
      guard device.count == 2, let inode = UInt64(fields[2]) else { continue }
      files.insert(FileNumber(major: device[0], minor: device[1], inode: inode))
    }
    return files
  }

  /// Which files any process, but this one, has mapped so.
  struct WrittenFiles {
    private var files: Set<FileNumber> = []
    /// Whether all are known.
    private var isWhole = true

    init() {
      var meter = BudgetMeter(interval: 1)
      for id in RunningProcesses.ids {
        guard meter.goesOn(), let more = RunningProcesses.writtenFiles(ofProcess: id) else {
          isWhole = false
          continue
        }
        files.formUnion(more)
      }
    }

    /// Whether some process has the file mapped; true also if that is not known.
    func mayContain(_ file: FileNumber) -> Bool { !isWhole || files.contains(file) }
  }
}
