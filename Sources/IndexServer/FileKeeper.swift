// Keeps what names are read from, for the time after a process: a file that no path leads to any more is held open
// while the segments of its processes are there (HeldFiles in Symbols).
//
// A process is looked at when it has noted its first modules, and from then on now and then, if its table of modules
// changed; the paths of all modules are looked at as often, as any of the files may be replaced. What is replaced and
// ends between two looks has no names afterwards, unless somebody asked about it meanwhile.

import Answers
import IndexReader
import Metrics
import Symbols

/// Looks after the files of live processes. Used by one task.
struct FileKeeper {
  private struct Process {
    var version: ModuleTableVersion
    var modules: [ModuleReference]
    /// Monotonic seconds of the first look and of the last one.
    var since: Int
    var lookedAt: Int
  }

  /// Seconds between two looks at one process.
  private static let interval = 10

  private let files: HeldFiles
  /// By segment.
  private var processes: [String: Process] = [:]

  init(_ files: HeldFiles) { self.files = files }

  /// Whether a process has noted no module yet: it is worth another look soon.
  var isEarly: Bool {
    processes.values.contains { $0.modules.isEmpty && $0.lookedAt - $0.since < Self.interval }
  }

  /// Looks at the processes that run, and lets go of what is held for segments that are not there any more.
  mutating func look(at segments: [SegmentFile]) {
    let now = Symbolizer.monotonicSeconds()
    let present = Set(segments.map(Self.owner))
    files.release { !present.contains($0) }
    processes = processes.filter { present.contains($0.key) }
    for segment in segments {
      let owner = Self.owner(segment)
      guard segment.isLive else {
        processes[owner] = nil
        continue
      }
      if let known = processes[owner], !known.modules.isEmpty, now - known.lookedAt < Self.interval { continue }
      look(at: segment, owner, now)
    }
    let counts = files.counts
    Meter(label: "allocsd_files_held").set(counts.held)
    Meter(label: "allocsd_files_unheld").set(Double(counts.refused))
  }

  private mutating func look(at file: SegmentFile, _ owner: String, _ now: Int) {
    guard let segment = try? Segment(path: file.path) else { return }
    let version = segment.moduleTableVersion
    var process = processes[owner] ?? Process(version: ModuleTableVersion(), modules: [], since: now, lookedAt: now)
    process.lookedAt = now
    if process.version != version {
      let modules = segment.modules.filter { $0.unloadTicks == nil && !$0.isAgent }
      // What was read of a segment that is cut or damaged says nothing.
      guard (try? segment.checkIntact()) != nil else { return }
      process.modules = modules.map { ModuleReference($0, in: segment) }
      process.version = version
    }
    for module in process.modules { files.hold(module, for: owner) }
    processes[owner] = process
  }

  /// A program that calls exec starts a new segment under the same name.
  private static func owner(_ file: SegmentFile) -> String { "\(file.path) \(file.inode)" }
}
