// A process that is indexed, live or dead: its segment, and what names the places in it.
//
// A view holds no state of the process beyond the mapped segment: each request (Inquiry) reads anew what may have
// changed (mappings, thread names, whether the process still runs), so that no answer is stale. What it keeps is worked
// out from what doesn't change, or is used again only where what was read is the same. The symbolizer is shared by all
// views, as most processes have the same libraries.

import ByteText
import Glibc
import IndexReader
import Provenance
import Symbols

/// An indexed process. May be used from several threads at once.
public final class ProcessView: Sendable {
  public let processID: Int32
  /// Clock ticks since boot, field 22 of /proc/PID/stat.
  public let startTime: UInt64
  public let shared: SharedSegment
  /// Of the file beside the segment by which events are turned on; nil if there was none.
  let control: FileNumber?
  let symbolizer: Symbolizer
  let elfFiles = ELFFiles()
  let tables: SegmentTables
  let latestMaps = LatestMaps()
  let mappedRanges = MappedRanges()
  let balance = IndexBalance()

  /// Serves every view that is not given another.
  public static let sharedSymbolizer = Symbolizer()

  /// The view of process `pid`: of the live one if it is indexed, else of the newest dead one whose segment is left.
  /// `directories` replaces the places where segments are looked for.
  public convenience init(
    pid: Int32, in directories: [String]? = nil, symbolizer: Symbolizer = ProcessView.sharedSymbolizer
  ) throws(AnswerError) {
    try self.init(file: Self.segmentFile(of: pid, in: directories), symbolizer: symbolizer)
  }

  /// The view of a segment that was found by `SegmentDirectory`.
  public convenience init(
    file: SegmentFile, symbolizer: Symbolizer = ProcessView.sharedSymbolizer
  ) throws(AnswerError) {
    try self.init(file: file.path, symbolizer: symbolizer)
  }

  /// The view of the segment in `file`.
  public init(file: String, symbolizer: Symbolizer = ProcessView.sharedSymbolizer) throws(AnswerError) {
    let shared: SharedSegment
    do {
      shared = try SharedSegment(path: file)
    } catch {
      throw AnswerError(error)
    }
    self.shared = shared
    control = FileNumber(path: EventConsumer.controlPath(ofSegment: file))
    self.symbolizer = symbolizer
    tables = SegmentTables(shared, symbolizer: symbolizer)
    processID = shared.segment.processID
    startTime = shared.segment.startTime
  }

  /// The segment of process `pid`: of the live one, else of the newest dead one. Throws if there is none.
  public static func segmentFile(
    of pid: Int32, in directories: [String]? = nil
  ) throws(AnswerError) -> SegmentFile {
    let file: SegmentFile?
    do throws(SegmentError) {
      file = try SegmentDirectory.find(processID: pid, in: directories)
    } catch {
      throw AnswerError(error)
    }
    guard let file else { throw missing(processID: pid, in: directories) }
    return file
  }

  /// Why process `pid` can't be asked about when no segment of it was found.
  public static func missing(processID pid: Int32, in directories: [String]? = nil) -> AnswerError {
    if let ignored = SegmentDirectory.ignored(processID: pid, in: directories).first(where: { $0.reason != .gone }) {
      return AnswerError(
        .notIndexed, what: "process \(pid) is not indexed: \(ignored.path) \(ignored.reason.text), and is ignored",
        advice: "remove it, and start the program with `allocsctl run -- COMMAND`")
    }
    guard pid > 0, kill(pid, 0) == 0 || errno == EPERM else {
      return AnswerError(
        .noSuchProcess, what: "there is no process \(pid), and no segment of one",
        advice: "`allocsctl ps` lists the processes that are indexed")
    }
    let places = (directories ?? SegmentDirectory.searchPaths).joined(separator: " and ")
    return AnswerError(
      .notIndexed, what: "process \(pid) is not indexed: it has no segment in \(places)",
      advice: "start it with `allocsctl run -- COMMAND`, or name its ALLOCS_DIR")
  }

  // MARK: facts

  /// Whether a request takes no longer than a fraction of a millisecond to begin, judged by the last one: false if the
  /// process has thousands of mappings, or its blocks are to be counted again.
  public var isQuickToAsk: Bool { latestMaps.size <= 64 << 10 && balance.isKnown(of: shared.segment) }

  /// The file of the segment.
  public var path: String { shared.segment.path }
  /// Owner of the segment: whoever may read it, and root.
  public var ownerID: UInt32 { shared.segment.ownerID }
  /// Whether the process still runs.
  public var isProcessAlive: Bool { shared.segment.isProcessAlive }

  /// Throws `.unreadable` if the segment was cut or damaged under the reader: then what was answered since the request
  /// began is not to be believed.
  public func checkIntact() throws(AnswerError) {
    do {
      try shared.segment.checkIntact()
    } catch {
      throw AnswerError(error)
    }
  }

  // MARK: answers

  /// What is at `address`. `stacks` false leaves the call stack out, the dearest part of an answer.
  public func answer(_ address: UInt64, stacks: Bool = true, wrappers: Wrappers = .standard) throws(AnswerError)
    -> Answer
  {
    var inquiry = Inquiry(self, wrappers: wrappers)
    let answer = inquiry.answer(address, stacks: stacks)
    try checkIntact()
    return answer
  }

  /// The answers to all `addresses` as text, in their order.
  public func text(of addresses: [UInt64], stacks: Bool = true) throws(AnswerError) -> String {
    var inquiry = Inquiry(self)
    var text = ""
    for address in addresses { text += inquiry.answer(address, stacks: stacks).text }
    try checkIntact()
    return text
  }

  /// Appends the answers to all `addresses`, in their order, as one JSON object a line.
  public func appendJSON(
    of addresses: some Sequence<UInt64>, stacks: Bool = true, to writer: inout ByteWriter
  ) throws(AnswerError) {
    var inquiry = Inquiry(self)
    for address in addresses { inquiry.appendJSONLine(of: address, stacks: stacks, to: &writer) }
    try checkIntact()
  }
}

extension IgnoredFile.Reason {
  /// What the file does or is, behind its name.
  fileprivate var text: String {
    switch self {
    case .symbolicLink: "is a symbolic link"
    case .directory: "is a directory"
    case .specialFile: "is no regular file"
    case .foreign: "belongs neither to its user nor to root"
    case .gone: "is gone"
    }
  }
}
