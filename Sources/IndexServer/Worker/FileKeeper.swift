// SPDX-License-Identifier: Apache-2.0
// Keeps the files that names are read from beyond the end of a process: a file that no path leads to any more is held
// open as long as the segments of its processes exist (HeldFiles in Symbols).
//
// A process is looked at as soon as it has noted its first modules. From then on it is looked at every few seconds if
// its table of modules has changed, and the paths of its modules are looked at as often, as any of the files may be
// replaced. Where a file is replaced and the process ends between two looks, the module has no names afterwards, unless
// somebody asked about it in between.

import Answers
import IndexReader
import Symbols

/// Looks after the files of live processes. Used by one task.
struct FileKeeper {
  private struct Process {
    var version: ModuleTableVersion
    var modules: [ModuleReference]
    /// Monotonic seconds of the first look at the process, and of the last look.
    var since: Int
    var lookedAt: Int
  }

  /// Seconds between two looks at one process.
  private static let interval = 10

  private let files: HeldFiles
  /// By segment.
  private var processes: [String: Process] = [:]

  init(_ files: HeldFiles) { self.files = files }

  /// Whether a process has not noted a module yet: it is worth another look soon.
  var isEarly: Bool {
    processes.values.contains { $0.modules.isEmpty && $0.lookedAt &- $0.since < Self.interval }
  }

  /// Looks at the running processes, and releases files that were held for segments that are gone.
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
      if let known = processes[owner], !known.modules.isEmpty, now &- known.lookedAt < Self.interval { continue }
      look(at: segment, owner, now)
    }
    let counts = files.counts
    Metric.Level.filesHeld.set(Double(counts.held))
    Metric.Level.filesUnheld.set(Double(counts.refused))
  }

  private mutating func look(at file: SegmentFile, _ owner: String, _ now: Int) {
    guard let segment = try? Segment(path: file.path) else { return }
    let version = segment.moduleTableVersion
    var process = processes[owner] ?? Process(version: ModuleTableVersion(), modules: [], since: now, lookedAt: now)
    process.lookedAt = now
    if process.version != version {
      let modules = segment.modules.filter { $0.unloadTicks == nil && !$0.isAgent }
      // Data that was read from a cut or damaged segment means nothing.
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
