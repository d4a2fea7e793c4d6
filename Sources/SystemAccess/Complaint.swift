// SPDX-License-Identifier: Apache-2.0
// The one error of all code outside the agent: what failed, why, and what to do about it.
//
// A complaint is made where something fails, with all its words, and passes through every layer unchanged. A front end
// turns its kind into a status: `allocsctl` into an exit status (Client/ExitStatus.swift), `allocsd` into an HTTP
// status (IndexServer/ErrorResponse.swift). Its words reach people unchanged: `<what> — <advice>` on one line.

import ByteText

/// Why something could not be done, and what to do about it.
public struct Complaint: Error, Hashable, Sendable {
  /// The kinds of failures that a program can act upon.
  public enum Kind: Hashable, Sendable, CaseIterable {
    /// The request itself is wrong: an address that is not a number, an option that does not exist.
    case usage
    /// No process has this id, and no segment is left of an earlier process that had it.
    case noSuchProcess
    /// No block of the process is in the group that the question is about.
    case noSuchGroup
    /// The process does not keep what it has ever allocated, or its server can't tell it.
    case noTotals
    /// The process runs, or ran, without an index.
    case notIndexed
    /// The caller may not do this: to read a process, the caller must be root or the process's user.
    case notPermitted
    /// The process is still writing the head of its segment, or died while it did. Another attempt may succeed.
    case halfWritten
    /// The file, a segment or a recording, can't be believed: cut short, damaged, or of another version.
    case unreadable
    /// The reader has run out of memory, address space or descriptors; or all places for consumers of events are taken.
    case shortage
    /// The question would cost more time or memory than one may, or its asker has gone (Bounds/Budget.swift).
    case budget
    /// A system call failed for another reason, or another program did not do its part: a full disk, a broken
    /// connection.
    case obstacle
    /// There is no file of the program that is to be started.
    case programNotFound
    /// The program that is to be started was found and can't be executed.
    case programNotExecutable
  }

  public var kind: Kind
  /// The attempt, its object, and why it failed. Paths and names in it are from elsewhere: all that would do more than
  /// show itself is escaped (ForeignText), as in `advice`.
  public var what: String { didSet { what = what.escapedAsForeign } }
  /// The remedy; empty if nobody knows one.
  public var advice: String { didSet { advice = advice.escapedAsForeign } }
  /// The `errno` value of the system call that failed; 0 if none did.
  public var code: Int32

  public init(_ kind: Kind, what: String, advice: String = "", code: Int32 = 0) {
    self.kind = kind
    self.what = what.escapedAsForeign
    self.advice = advice.escapedAsForeign
    self.code = code
  }
}

extension Complaint: CustomStringConvertible {
  /// `<what> — <advice>`, as a program prints it behind its name.
  public var description: String { advice.isEmpty ? what : "\(what) — \(advice)" }
}
