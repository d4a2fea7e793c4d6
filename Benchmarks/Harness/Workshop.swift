// SPDX-License-Identifier: Apache-2.0
// Where the benchmarks work: a scratch directory, the compiled programs, and what makes a command a variant.

import Foundation
import Measurement

final class Workshop {
  let options: Options
  /// A new directory of this run's own, on a file system of memory where there is one.
  let scratch: String
  private let binaries: String
  private let sources: String
  private let layoutHeaders: String
  private var compiled: Set<String> = []

  static let heaptrackLibrary = "/usr/lib/heaptrack/libheaptrack_preload.so"

  init(options: Options) throws {
    self.options = options
    let root = FileManager.default.fileExists(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
    scratch = "\(root)/allocs-bench.\(getpid())"
    binaries = "\(scratch)/bin"
    sources = "\(options.root)/Benchmarks/Programs"
    layoutHeaders = "\(options.root)/Sources/SharedLayout/include"
    Self.removeLeftovers(in: root)
    try FileManager.default.createDirectory(atPath: segments, withIntermediateDirectories: true)
    try FileManager.default.createDirectory(atPath: binaries, withIntermediateDirectories: true)
  }

  /// A run that was interrupted leaves its directory behind.
  private static func removeLeftovers(in root: String) {
    for name in (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? [] where name.hasPrefix("allocs-bench.")
    {
      guard let pid = pid_t(name.dropFirst("allocs-bench.".count)), kill(pid, 0) != 0, errno == ESRCH else { continue }
      try? FileManager.default.removeItem(atPath: "\(root)/\(name)")
    }
  }

  deinit { try? FileManager.default.removeItem(atPath: scratch) }

  /// The directory that every agent of this run writes to.
  var segments: String { "\(scratch)/segments" }

  /// The path of a program of Benchmarks/Programs, compiled on first use: as distributions do, optimized and without
  /// frame pointers. With other `options` it must have another name, `binaryName`.
  func program(
    _ name: String, as binaryName: String? = nil, options: [String] = [], libraries: [String] = []
  ) throws -> String {
    let binary = "\(binaries)/\(binaryName ?? name)"
    if !compiled.contains(binary) {
      try Command(
        program: "cc",
        arguments: [
          "-O2", "-fomit-frame-pointer", "-pthread", "-I", layoutHeaders, "-o", binary, "\(sources)/\(name).c",
        ] + options + libraries.map { "-l\($0)" }
      ).run()
      compiled.insert(binary)
    }
    return binary
  }

  /// The path of a file of Benchmarks/Programs.
  func source(_ name: String) -> String { "\(sources)/\(name)" }

  /// Writes a file into the scratch directory and returns its path.
  func file(_ name: String, _ content: String) throws -> String {
    let path = "\(scratch)/\(name)"
    try content.write(toFile: path, atomically: false, encoding: .utf8)
    return path
  }

  /// The variants that can be run here: heaptrack only where it is installed, the agent only if there is one.
  var variants: [Variant] {
    Variant.allCases.filter { variant in
      switch variant {
      case .plain: true
      case .site, .full: options.agent != nil
      case .heaptrack: options.heaptrack && FileManager.default.fileExists(atPath: Self.heaptrackLibrary)
      }
    }
  }

  /// How often a round measures each variant, where it measures all but heaptrack `count` times: heaptrack's ratio is
  /// so large that once will do, and it takes most of the time.
  func repeats(_ count: Int) -> [Variant: Int] {
    options.quick ? [:] : [.plain: count, .site: count, .full: count]
  }

  /// `command` under `variant`. What the variant leaves behind is removed by `cleanUp`.
  func command(_ command: Command, under variant: Variant) -> Command {
    var command = command
    switch variant {
    case .plain: break
    case .site, .full:
      command.environment["LD_PRELOAD"] = options.agent
      command.environment["ALLOCS_DIR"] = segments
      command.environment["ALLOCS_STACKS"] = variant.rawValue
    case .heaptrack:
      command.environment["LD_PRELOAD"] = Self.heaptrackLibrary
      command.environment["DUMP_HEAPTRACK_OUTPUT"] = heaptrackOutput
    }
    return command
  }

  /// What the preloaded heaptrack writes.
  var heaptrackOutput: String { "\(scratch)/heaptrack.out" }

  /// Removes recordings and segments, so that they don't fill the memory.
  func cleanUp() {
    unlink(heaptrackOutput)
    for name in (try? FileManager.default.contentsOfDirectory(atPath: segments)) ?? [] { unlink("\(segments)/\(name)") }
  }

  /// The segment of process `pid`; fails if the agent made none.
  func segment(of pid: pid_t) throws -> String {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: segments)) ?? []
    guard let name = names.first(where: { $0.hasPrefix("\(pid).") && $0.hasSuffix(".seg") }) else {
      throw BenchmarkError("process \(pid) has no segment in \(segments): is \(options.agent ?? "the agent") working?")
    }
    return "\(segments)/\(name)"
  }
}
