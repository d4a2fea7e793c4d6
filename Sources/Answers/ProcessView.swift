// SPDX-License-Identifier: Apache-2.0
// An indexed process, live or dead: its segment, and the names of its code and data.
//
// A view holds no state of the process beyond the mapped segment. Each request (Inquiry) reads anew all that may have
// changed (mappings, thread names, whether the process still runs), so that no answer is stale. Results that a view
// keeps are made from facts that don't change, or are used again only where the facts read are the same as before. All
// views share the symbolizer, as most processes have the same libraries.

import ByteText
import Glibc
import IndexReader
import Provenance
import Symbols
import SystemAccess

/// An indexed process. May be used from several threads at once.
public final class ProcessView: Sendable {
  public let processID: Int32
  /// Clock ticks since boot, field 22 of /proc/PID/stat.
  public let startTime: UInt64
  public let shared: SharedSegment
  /// The control file beside the segment, by which events are turned on; nil if there was none.
  let control: FileNumber?
  let symbolizer: Symbolizer
  let elfFiles = ELFFiles()
  let tables: SegmentTables
  let latestMaps = LatestMaps()
  let mappedRanges = MappedRanges()
  let balance = IndexBalance()

  /// The symbolizer of every view that is not given another.
  public static let sharedSymbolizer = Symbolizer()

  /// The view of process `pid`: of the live process if it is indexed, else of the newest dead process with that id
  /// whose segment is left. `directories` replaces the directories in which segments are looked for.
  public convenience init(
    pid: Int32, in directories: [String]? = nil, symbolizer: Symbolizer = ProcessView.sharedSymbolizer
  ) throws(Complaint) {
    try self.init(file: Self.segmentFile(of: pid, in: directories), symbolizer: symbolizer)
  }

  /// The view of a segment that was found by `SegmentDirectory`.
  public convenience init(
    file: SegmentFile, symbolizer: Symbolizer = ProcessView.sharedSymbolizer
  ) throws(Complaint) {
    try self.init(file: file.path, symbolizer: symbolizer)
  }

  /// The view of the segment in `file`.
  public init(file: String, symbolizer: Symbolizer = ProcessView.sharedSymbolizer) throws(Complaint) {
    shared = try SharedSegment(path: file)
    control = FileNumber(path: EventConsumer.controlPath(ofSegment: file))
    self.symbolizer = symbolizer
    tables = SegmentTables(shared, symbolizer: symbolizer)
    processID = shared.segment.processID
    startTime = shared.segment.startTime
  }

  /// The segment of process `pid`: of the live process, else of the newest dead one. Throws if there is none.
  public static func segmentFile(
    of pid: Int32, in directories: [String]? = nil
  ) throws(Complaint) -> SegmentFile {
    if let file = try SegmentDirectory.find(processID: pid, in: directories) { return file }
    throw missing(processID: pid, in: directories)
  }

  /// Why process `pid` can't be asked about when no segment of it was found.
  public static func missing(processID pid: Int32, in directories: [String]? = nil) -> Complaint {
    if let ignored = SegmentDirectory.ignored(processID: pid, in: directories).first(where: { $0.reason != .gone }) {
      return Complaint(
        .notIndexed, what: "process \(pid) is not indexed: \(ignored.path) \(ignored.reason.text), and is ignored",
        advice: "remove it, and start the program with `allocsctl run -- COMMAND`")
    }
    if let user = SegmentDirectory.strangerRunning(processID: pid) {
      return Complaint(
        .notPermitted,
        what:
          "can't tell of process \(pid): permission denied, it is a process of \(IndexedProcess.name(ofUser: user))",
        advice: "ask as the user who owns the process, or as root")
    }
    guard pid > 0, kill(pid, 0) == 0 || errno == EPERM else {
      return Complaint(
        .noSuchProcess, what: "there is no process \(pid), and no segment of one",
        advice: "`allocsctl ps` lists the processes that are indexed")
    }
    let places = (directories ?? SegmentDirectory.searchPaths).prefix(8).joined(separator: ", ")
    var what = "process \(pid) is not indexed: it has no segment in \(places)"
    if directories == nil, let refused = SegmentDirectory.refused.first {
      what += "; \(refused.path) is passed over: \(refused.why)"
    }
    return Complaint(
      .notIndexed, what: what, advice: "start it with `allocsctl run -- COMMAND`, or name its ALLOCS_DIR")
  }

  // MARK: facts

  /// Whether a request begins within a fraction of a millisecond, judged by the last request: false if the process has
  /// thousands of mappings and the kernel can't be asked about single ones, or its blocks are to be counted again.
  public var isQuickToAsk: Bool {
    (latestMaps.areAsked || latestMaps.size <= 64 << 10) && balance.isKnown(of: shared.segment)
  }

  /// The file of the segment.
  public var path: String { shared.segment.path }
  /// The owner of the segment: this user, and root, may read it.
  public var ownerID: UInt32 { shared.segment.ownerID }
  /// Whether the process still runs.
  public var isProcessAlive: Bool { shared.segment.isProcessAlive }

  /// Throws `.unreadable` if the segment was cut or damaged under the reader: then the answers since the request began
  /// are not to be believed.
  public func checkIntact() throws(Complaint) { try shared.segment.checkIntact() }

  // MARK: answers

  /// The answer about `address`. With `stacks` false it has no call stack, which is the costliest part of an answer.
  public func answer(_ address: UInt64, stacks: Bool = true, wrappers: Wrappers = .standard) throws(Complaint)
    -> Answer
  {
    var inquiry = Inquiry(self, wrappers: wrappers)
    let answer = inquiry.answer(address, stacks: stacks)
    try checkIntact()
    return answer
  }

  /// The answers to all `addresses` as text, in their order.
  public func text(of addresses: [UInt64], stacks: Bool = true) throws(Complaint) -> String {
    var inquiry = Inquiry(self)
    var text = ""
    for address in addresses { text += inquiry.answer(address, stacks: stacks).text }
    try checkIntact()
    return text
  }

  /// Appends the answers to all `addresses`, in their order, as one JSON object a line.
  public func appendJSON(
    of addresses: some Sequence<UInt64>, stacks: Bool = true, to writer: inout ByteWriter
  ) throws(Complaint) {
    var inquiry = Inquiry(self)
    for address in addresses { inquiry.appendJSONLine(of: address, stacks: stacks, to: &writer) }
    try checkIntact()
  }
}

extension IgnoredFile.Reason {
  /// The words behind the file's name.
  fileprivate var text: String {
    switch self {
    case .symbolicLink: "is a symbolic link"
    case .directory: "is a directory"
    case .specialFile: "is no regular file"
    case .foreign: "belongs neither to its user nor to root, or is in the directory of somebody else"
    case .gone: "is gone"
    case .hardLink: "has several names, by hard links"
    }
  }
}
