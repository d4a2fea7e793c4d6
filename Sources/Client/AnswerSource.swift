// SPDX-License-Identifier: Apache-2.0
// Where answers come from: a server (ServerSource.swift), or the segments themselves, mapped by this process
// (DirectSource.swift). The answers are the same, byte for byte.

import Answers
import Provenance
import Recording
import SystemAccess

/// How the caller wants to see allocations.
struct Perspective {
  /// Patterns of functions that are passed over in the search for allocation sites, beside the known functions.
  var wrappers: [String] = []
  /// nil: as the process was started.
  var level: Level?
}

/// Which live blocks a question is about.
struct ScopeRequest {
  var perspective = Perspective()
  var window = TimeWindow()
  /// The group whose blocks alone are meant; nil: all are.
  var group: GroupName?
  var countsMappings = false

  func scope() throws(Complaint) -> HeapScope {
    var scope = HeapScope(
      window: window, wrappers: try Wrappers.standard.adding(perspective.wrappers), level: perspective.level)
    scope.group = group
    scope.countsMappings = countsMappings
    return scope
  }
}

/// What `top` shows.
struct TopRequest {
  var scope = ScopeRequest()
  var sort = SiteOrder.bytes
  var grouping = HeapGrouping.site
  var limit: Int
  /// Whether what was ever allocated is asked for, too.
  var wantsTotals = false
  /// Moments at which the sums are divided, in JSON.
  var divisions: [Moment] = []
}

/// What `tree` shows.
struct TreeRequest {
  var scope = ScopeRequest()
  var isInverted: Bool
  var limit: Int
}

/// What `blocks` shows.
struct BlocksRequest {
  var scope = ScopeRequest()
  /// Patterns of the functions that allocated; none: all.
  var sites: [String]
  var sizes: ClosedRange<UInt64>
  var sort: BlockOrder
  var limit: Int
}

/// A process by its id, and perhaps its start time (field 22 of /proc/PID/stat); nil: the latest with that id.
struct NamedProcess: Equatable {
  var id: Int32
  var startTime: UInt64?

  /// As a server's paths name it.
  var path: String { "\(id)" + (startTime.map { "@\($0)" } ?? "") }
}

/// How two processes are compared.
struct DifferenceRequest {
  var perspective: Perspective
  var grouping: HeapDifference.Grouping
  var limit: Int
  /// Whether what was allocated between the looks is asked for, too.
  var wantsTotals: Bool
  /// Whether two programs are compared, too.
  var otherProgram: Bool
}

/// Which events of a process are wanted, and in which form.
struct EventRequest {
  /// Conditions by name, as `EventFilter` takes them.
  var conditions: [(name: String, value: String)]
  /// Patterns of functions that are passed over in the search for allocation sites, beside the known functions.
  var wrappers: [String]
  /// Whether the process waits rather than lose events.
  var isLossless: Bool
  /// Whether each event has its whole call stack, in JSON.
  var stacks: Bool
  /// One JSON object a line; else text.
  var json: Bool
}

/// Answers the questions of all commands, with the bytes that are printed.
protocol AnswerSource {
  func processes(_ selection: ProcessSelection, json: Bool) throws(Complaint) -> [UInt8]
  func summary(of pid: Int32, json: Bool) throws(Complaint) -> [UInt8]
  func top(of pid: Int32, _ request: TopRequest, json: Bool) throws(Complaint) -> [UInt8]
  func marks(of pid: Int32, json: Bool) throws(Complaint) -> [UInt8]
  func memory(of pid: Int32, pins: Bool, _ perspective: Perspective, json: Bool) throws(Complaint) -> [UInt8]
  func tree(of pid: Int32, _ request: TreeRequest, json: Bool) throws(Complaint) -> [UInt8]
  /// Writes live memory as a file of `format` to `path`. Says on standard error what the index lacks. Nothing is left
  /// of a file that is not whole; the error of what was interrupted has the code ECANCELED.
  func export(
    _ process: NamedProcess, _ scope: ScopeRequest, _ format: FileFormat, to path: String,
    until interruption: Interruption
  ) throws(Complaint)
  /// Writes a snapshot of a process to `path`, in the same way.
  func snapshot(of pid: Int32, to path: String, until interruption: Interruption) throws(Complaint) -> Snapshot.Result
  /// What differs between two processes; how many bytes more live in the second; and why it may be another number.
  func difference(
    _ first: NamedProcess, _ second: NamedProcess, _ request: DifferenceRequest, json: Bool
  ) throws(Complaint) -> (bytes: [UInt8], growth: Int64, doubt: String?)
  func blocks(of pid: Int32, _ request: BlocksRequest, json: Bool) throws(Complaint) -> [UInt8]
  /// The answers to all addresses, in their order. Throws also where there is no address, if the process can't be asked
  /// about.
  func answers(
    of pid: Int32, to addresses: [UInt64], form: AnswerList.Form, stacks: Bool, _ perspective: Perspective
  ) throws(Complaint) -> [UInt8]
  /// Prints events of a process as they come, until the process ends or the user interrupts.
  func events(of pid: Int32, _ request: EventRequest, until interruption: Interruption) throws(Complaint)
}
