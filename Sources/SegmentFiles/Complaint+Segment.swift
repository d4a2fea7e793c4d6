// SPDX-License-Identifier: Apache-2.0
// Why a segment can't be read: one complaint for each failure that a person can do something about,
// with the file's path in its words.

import SystemAccess
@_exported import SystemAccess

extension Complaint {
  /// There is no such file.
  public static func noSuchFile(path: String) -> Complaint {
    Complaint(
      .notIndexed, what: "can't open segment \(path): there is no such file",
      advice: "`allocsctl ps` lists the processes that are indexed")
  }

  /// The file exists, and the caller may not open it.
  public static func notPermitted(path: String) -> Complaint {
    Complaint(
      .notPermitted, what: "can't open segment \(path): permission denied",
      advice: "ask as the user who owns the process, or as root")
  }

  /// The file is no segment: it has another magic, is no regular file, or its header contradicts
  /// itself.
  public static func notASegment(path: String, why: String) -> Complaint {
    Complaint(
      .unreadable, what: "can't read \(path): it is not a segment, \(why)",
      advice: "remove it, and start the process again under the agent")
  }

  /// The magic is still zero: the process is about to write the header, or died before it did.
  public static func halfWritten(path: String) -> Complaint {
    Complaint(
      .halfWritten, what: "can't read segment \(path): it is half-written",
      advice: "try again; if that stays so, the process ended while it started")
  }

  /// The file is of a layout version that this build does not read; it reads the versions `known`.
  public static func otherVersion(
    path: String, found: UInt32, known: ClosedRange<UInt32>
  ) -> Complaint {
    let versions =
      known.count == 1
      ? "version \(known.upperBound)" : "versions \(known.lowerBound) to \(known.upperBound)"
    return Complaint(
      .unreadable,
      what: "can't read segment \(path): its layout is version \(found), this build knows \(versions)",
      advice: found > known.upperBound
        ? "install the allocsctl of that version, which is newer, or start the process again under this one's agent"
        : "its agent is of an older version: start the process again, or use the allocsctl of that version")
  }

  /// The file is shorter than its header says, or than a header is.
  public static func truncated(path: String, why: String) -> Complaint {
    Complaint(
      .unreadable, what: "can't read segment \(path): it is cut short, \(why)",
      advice: "the file is damaged; run the process again")
  }

  /// The file was cut or overwritten after it was opened: answers since then may be wrong.
  public static func broken(path: String, why: String) -> Complaint {
    Complaint(
      .unreadable, what: "can't go on with segment \(path): \(why)",
      advice: "what it said can't be trusted any more; open it again or run the process again")
  }

  /// The process has as many consumers of its events as there can be.
  public static func occupied(path: String, consumers: Int) -> Complaint {
    Complaint(
      .shortage, what: "can't attach to \(path): it has \(consumers) consumers of its events, the most there can be",
      advice: "end one of them and try again; those of a server that overwrite (policy=overwrite) share one place")
  }

  /// The system refused something else: `why` is its own message.
  public static func system(path: String, operation: String, why: String) -> Complaint {
    Complaint(
      .shortage, what: "can't \(operation) \(path): \(why)",
      advice: "free the resource that is short, or raise its limit, and try again")
  }
}
