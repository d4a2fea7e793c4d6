// SPDX-License-Identifier: Apache-2.0
// Marks: moments of a process that somebody has given a name. They are kept with its segment, in
// extended attributes of the file, as its ending is (ProcessEnding.swift): one attribute a mark,
// user.allocs.mark.NAME, whose value is the moment in nanoseconds from the agent's start, as a
// decimal number. So a mark outlives whoever set it, goes with the segment, and is the file
// owner's: the kernel lets nobody set an attribute who may not write the file.
//
// Any program of the owner's may have written what is read: a name of another form, and a value
// that is no number, are passed over.

import ByteText
import CLibrary
import Glibc
import SystemAccess

/// A moment of a process that has a name.
public struct SegmentMark: Hashable, Sendable {
  /// Its name; foreign, as all that is read of a segment.
  public var name: ForeignText
  /// Nanoseconds from the agent's start.
  public var moment: UInt64

  /// A mark of these properties, which is set nowhere by that.
  public init(name: ForeignText, moment: UInt64) {
    self.name = name
    self.moment = moment
  }

  /// Marks that a process may have.
  public static let limit = 32
  /// Bytes of the longest name.
  public static let nameLimit = 64

  private static let prefix = "user.allocs.mark."

  /// Whether a mark may be called `text`: a letter, then letters, digits, `.`, `_` and `-`. No such
  /// text reads as a time.
  public static func isName(_ text: String) -> Bool {
    func isLetter(_ byte: UInt8) -> Bool { (byte | 0x20) &- UInt8(ascii: "a") < 26 }
    let bytes = text.utf8
    guard let first = bytes.first, isLetter(first), bytes.count <= nameLimit else { return false }
    return bytes.allSatisfy { byte in
      isLetter(byte) || byte &- UInt8(ascii: "0") < 10 || ".-_".utf8.contains(byte)
    }
  }

  /// The marks of the segment at `path`, the earliest first; none if it is not the file `number`
  /// any more, or can't be read.
  package static func all(ofSegment path: String, _ number: FileNumber) -> [SegmentMark] {
    guard let file = try? open(path, number) else { return [] }
    return all(of: file)
  }

  private static func open(_ path: String, _ number: FileNumber) throws(FileRefusal) -> OpenedFile {
    let (parent, name) = OpenFile.split(path)
    guard let directory = try? CheckedDirectory(path: parent) else { throw .ignored(.gone) }
    let file = try OpenedFile(in: directory.descriptor, name)
    guard FileNumber(file.status) == number else { throw .ignored(.gone) }
    return file
  }

  private static func all(of file: borrowing OpenedFile) -> [SegmentMark] {
    let descriptor = file.descriptor
    // The kernel's own limit of the names' length (XATTR_LIST_MAX).
    let names = [UInt8](unsafeUninitializedCapacity: 1 << 16) { buffer, count in
      count = buffer.withMemoryRebound(to: CChar.self) { max(0, flistxattr(descriptor, $0.baseAddress, $0.count)) }
    }
    var marks: [SegmentMark] = []
    for bytes in names.split(separator: 0) where marks.count < limit {
      let attribute = String(decoding: bytes, as: UTF8.self)
      guard attribute.hasPrefix(prefix) else { continue }
      let name = String(attribute.dropFirst(prefix.count))
      guard isName(name), let moment = moment(of: attribute, descriptor) else { continue }
      marks.append(SegmentMark(name: ForeignText(name), moment: moment))
    }
    return marks.sorted { ($0.moment, $0.name) < ($1.moment, $1.name) }
  }

  private static func moment(of attribute: String, _ descriptor: Int32) -> UInt64? {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 24) { buffer in
      let size = fgetxattr(descriptor, attribute, buffer.baseAddress, buffer.count)
      return UInt64(String(decoding: buffer.prefix(max(0, size)), as: UTF8.self))
    }
  }

  // MARK: setting

  /// Sets the mark, with the rights of the caller; a mark of the same name is moved. Returns the
  /// moment that this one had; nil if it is new. Throws `.usage` if there are too many, and
  /// `.notPermitted` if the caller may not write the file.
  @discardableResult
  package func set(onSegment path: String, _ number: FileNumber) throws(Complaint) -> UInt64? {
    let what = "set a mark on \(path)"
    let file = try Self.opened(what, path, number)
    let marks = Self.all(of: file)
    let former = marks.first { $0.name == name }
    guard former != nil || marks.count < Self.limit else {
      throw Complaint(
        .usage, what: "the process has \(marks.count) marks, and may have no more",
        advice: "remove one first: allocsctl mark PID NAME --remove")
    }
    let value = Array("\(moment)".utf8)
    guard fsetxattr(file.descriptor, Self.attribute(name), value, value.count, 0) == 0 else {
      throw Self.failure(what, errno)
    }
    return former?.moment
  }

  /// Removes the mark called `name`. Throws `.usage` if there is none.
  package static func remove(
    _ name: ForeignText, fromSegment path: String, _ number: FileNumber
  ) throws(Complaint) {
    let what = "remove a mark of \(path)"
    let file = try opened(what, path, number)
    guard fremovexattr(file.descriptor, attribute(name)) == 0 else {
      guard errno != ENODATA else { throw unknown(name, among: all(of: file)) }
      throw failure(what, errno)
    }
  }

  private static func attribute(_ name: ForeignText) -> [CChar] {
    let attribute: ForeignText = "\(prefix)\(name)"
    return attribute.originalPath
  }

  /// Why no mark is called `name`, with those that there are.
  public static func unknown(_ name: ForeignText, among marks: [SegmentMark]) -> Complaint {
    let names = marks.map { $0.name.escaped }.joined(separator: ", ")
    return Complaint(
      .usage, what: "there is no mark \"\(name)\"",
      advice: marks.isEmpty
        ? "the process has no marks: allocsctl mark PID NAME sets one" : "the process has these marks: \(names)")
  }

  private static func opened(
    _ what: String, _ path: String, _ number: FileNumber
  ) throws(Complaint) -> OpenedFile {
    do throws(FileRefusal) {
      return try open(path, number)
    } catch {
      throw failure(what, error.code)
    }
  }

  private static func failure(_ what: String, _ code: Int32) -> Complaint {
    switch code {
    case EACCES, EPERM:
      Complaint(
        .notPermitted, what: "can't \(what): permission denied",
        advice: "only who may write the index may do that: the process's user, while the process runs", code: code)
    case ENOTSUP:
      Complaint(
        .obstacle, what: "can't \(what): its file system keeps no attributes of users",
        advice: "a tmpfs keeps them since Linux 6.6", code: code)
    case ENOSPC, EDQUOT:
      Complaint(
        .shortage, what: "can't \(what): its file system has no room for attributes", advice: "remove a mark",
        code: code)
    case let code: Complaint(.obstacle, what: "can't \(what): \(systemWords(code))", code: code)
    }
  }
}
