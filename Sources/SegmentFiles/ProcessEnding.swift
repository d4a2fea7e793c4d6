// SPDX-License-Identifier: Apache-2.0
// How a process ended, and where that is kept: with its segment, in an extended attribute of the
// file. The kernel gives the status of a process only to its parent, and to a program that holds a
// descriptor of the process (allocsd). From the attribute, anybody who may list the directory knows
// it, without a server, and after the server was restarted.
//
// The attribute is written by the file's owner, as the segment is, and is as credible as the
// segment.

import ByteText
import CLibrary
import Glibc

/// How a process ended.
public enum ProcessEnding: Hashable, Sendable, CustomStringConvertible {
  /// The process called exit or `_exit`, or its last thread ended; the status is 0 to 255.
  case exited(status: Int32)
  /// A signal ended the process; its number is 1 to 126.
  case killed(signal: Int32, hasDumpedCore: Bool)

  /// From a status as waitpid(2) gives it; nil if it is not the status of an ended process.
  public init?(waitStatus: Int32) {
    guard 0...0xffff ~= waitStatus else { return nil }
    let signal = waitStatus & 0x7f
    switch signal {
    case 0 where waitStatus & 0x80 == 0: self = .exited(status: waitStatus >> 8)
    case 1..<0x7f where waitStatus >> 8 == 0: self = .killed(signal: signal, hasDumpedCore: waitStatus & 0x80 != 0)
    default: return nil
    }
  }

  /// Words for people, such as `exit status 3`, `SIGKILL`, or `SIGSEGV, core dumped`.
  public var description: String {
    switch self {
    case .exited(let status): "exit status \(status)"
    case .killed(let signal, let hasDumpedCore): "\(Self.name(ofSignal: signal))\(hasDumpedCore ? ", core dumped" : "")"
    }
  }

  var waitStatus: Int32 {
    switch self {
    case .exited(let status): status << 8
    case .killed(let signal, let hasDumpedCore): signal | (hasDumpedCore ? 0x80 : 0)
    }
  }

  /// The name of a signal, such as `SIGKILL`, or `SIG40` for a number without a name.
  public static func name(ofSignal number: Int32) -> String {
    sigabbrev_np(number).map { "SIG" + String(cString: $0) } ?? "SIG\(number)"
  }

  // MARK: with the segment

  /// Holds the wait status as a decimal number.
  private static let attribute = "user.allocs.wait_status"

  /// The ending that was noted with the segment at `path`; nil if none was, or it can't be read.
  public init?(ofSegment path: String) {
    guard let status = Int32(Self.text(of: Self.attribute, path)) else { return nil }
    self.init(waitStatus: status)
  }

  fileprivate static func text(of attribute: String, _ path: String) -> String {
    let (parent, name) = OpenFile.split(path)
    guard let directory = try? CheckedDirectory(path: parent),
      let file = try? OpenedFile(in: directory.descriptor, name)
    else { return "" }
    return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 16) { buffer in
      let size = fgetxattr(file.descriptor, attribute, buffer.baseAddress, buffer.count)
      return String(decoding: buffer.prefix(max(0, size)), as: UTF8.self)
    }
  }

  /// Notes the ending with `file`, if that file is still at its path, with the rights of the
  /// calling thread: the owner's are enough (setfsuid(2)). Returns 0, or the system's
  /// number of the error: ENOTSUP where the file system keeps no attributes of users (tmpfs keeps
  /// them since Linux 6.6).
  @discardableResult
  public func note(with file: SegmentFile) -> Int32 { Self.note("\(waitStatus)", in: Self.attribute, of: file) }

  fileprivate static func note(_ text: String, in attribute: String, of file: SegmentFile) -> Int32 {
    let (parent, name) = OpenFile.split(file.path)
    do throws(DirectoryRefusal) {
      let directory = try CheckedDirectory(path: parent)
      do throws(FileRefusal) {
        let opened = try OpenedFile(in: directory.descriptor, name)
        guard FileNumber(opened.status) == file.number, opened.status.st_uid == file.ownerID else { return ENOENT }
        return note(text, in: attribute, opened)
      } catch {
        return error.code
      }
    } catch {
      return ENOENT
    }
  }

  private static func note(_ text: String, in attribute: String, _ file: borrowing OpenedFile) -> Int32 {
    let (descriptor, status) = (file.descriptor, file.status)
    // A sweep may have taken away the permission to write, which setting an attribute needs.
    if status.st_mode & S_IWUSR == 0 { fchmod(descriptor, status.st_mode & 0o7777 | S_IWUSR) }
    // As a sweep marks a file whose process is dead (Retention.swift): now, so that the file's time
    // of change is that of the end.
    defer { fchmod(descriptor, status.st_mode & 0o7777 & ~S_IWUSR) }
    let bytes = Array(text.utf8)
    return fsetxattr(descriptor, attribute, bytes, bytes.count, 0) == 0 ? 0 : errno
  }
}

/// Why it is not known how a process ended, as the server that should know has noted it.
public enum UnknownEnding: String, Sendable, CustomStringConvertible {
  /// The process was gone, and its parent had waited for it, before the server could open it.
  case notSeen = "not seen"
  /// The kernel doesn't tell how it ended: kernels before Linux 6.15.
  case notTold = "not told"
  /// The process ran in a pid namespace that the server does not see.
  case notVisible = "not visible"
  /// More processes ran than the server may watch, by its limit of open files.
  case tooMany = "too many"

  private static let attribute = "user.allocs.ending"

  /// The reason that was noted with the segment at `path`; nil if none was.
  public init?(ofSegment path: String) { self.init(rawValue: ProcessEnding.text(of: Self.attribute, path)) }

  /// Notes the reason with `file`, as `ProcessEnding.note(with:)` notes an ending. Returns 0, or
  /// the system's number of the error.
  @discardableResult
  public func note(with file: SegmentFile) -> Int32 { ProcessEnding.note(rawValue, in: Self.attribute, of: file) }

  /// Words for people, which begin with what went wrong.
  public var description: String {
    switch self {
    case .notSeen: "it ended before allocsd looked"
    case .notTold: "the kernel did not tell allocsd, before Linux 6.15"
    case .notVisible: "it ran in a pid namespace that allocsd does not see"
    case .tooMany: "allocsd may not watch so many processes at a time"
    }
  }

  /// Words for people: why nobody knows how the process ended whose segment is at `path`.
  public static func reason(ofSegment path: String) -> String {
    UnknownEnding(ofSegment: path)?.description ?? "no allocsd watched it"
  }
}
