// SPDX-License-Identifier: Apache-2.0
// Allocators to be linked into test programs, made when a test first needs them.

import Foundation
import Synchronization
import TestSupport

enum StaticAllocators {
  private static let made = Mutex<[String: String]>([:])
  private static let directory = Result { try TestDirectory() }

  private static func make(_ name: String, _ body: (String) throws -> Void) throws -> String {
    try made.withLock { made in
      if let path = made[name] { return path }
      let path = try directory.get().file(name)
      try body(path)
      made[name] = path
      return path
    }
  }

  private static func run(_ arguments: [String]) throws {
    let outcome = try ChildProcess.run(arguments, patience: 300)
    guard outcome.ending == .exit(0) else {
      throw HarnessError("\(arguments.joined(separator: " ")) failed: \(outcome.output)\(outcome.errors)")
    }
  }

  /// Debian's jemalloc, its functions under names that begin with `prefix`, as jemalloc's configure would make it.
  static func jemalloc(prefix: String) throws -> String {
    try make("lib\(prefix)jemalloc.a") { path in
      let named = try ChildProcess.run(["cc", "-print-file-name=libjemalloc_pic.a"])
      let original = named.output.trimmingCharacters(in: .whitespacesAndNewlines)
      guard original.contains("/") else {
        throw HarnessError("libjemalloc_pic.a is missing: apt-get install libjemalloc-dev")
      }
      try run(["cp", original, path])
      // Operators of C++ are no part of one with a prefix.
      try run(["ar", "d", path, "jemalloc_cpp.pic.o"])
      let names = [
        "aligned_alloc", "calloc", "dallocx", "free", "mallctl", "malloc", "malloc_conf", "malloc_stats_print",
        "malloc_usable_size", "mallocx", "memalign", "nallocx", "posix_memalign", "rallocx", "realloc", "sallocx",
        "sdallocx", "valloc", "xallocx",
      ]
      try run(["objcopy"] + names.flatMap { ["--redefine-sym", "\($0)=\(prefix)\($0)"] } + [path])
    }
  }

  /// mimalloc's object file, which also defines malloc. Debian has it as a shared library only.
  static func mimalloc() throws -> String {
    let directory =
      ProcessInfo.processInfo.environment["ALLOCS_MIMALLOC_DIR"] ?? "\(Installation.packageDirectory)/.build/mimalloc"
    let files = FileManager.default.enumerator(atPath: directory)
    while let file = files?.nextObject() as? String {
      if file.hasSuffix("/mimalloc.o") { return "\(directory)/\(file)" }
    }
    throw HarnessError(
      "there is no mimalloc.o in \(directory):"
        + " run scripts/fetch-mimalloc, or name its directory with ALLOCS_MIMALLOC_DIR"
    )
  }

  /// mimalloc's object file with none but the names that begin with mi_.
  static func mimallocWithoutOverride() throws -> String {
    try make("mimalloc-only.o") { path in
      try run(["objcopy", "--wildcard", "--keep-global-symbol=mi_*", try mimalloc(), path])
    }
  }

  /// Our own allocator under names that begin with dl.
  static func dlmalloc() throws -> String {
    try make("dlmalloc.o") { path in
      try run([
        "c++", "-std=c++17", "-O2", "-fno-exceptions", "-D_GNU_SOURCE", "-DPREFIX=dl", "-c",
        Programs.source("own_allocator.cpp"), "-o", path,
      ])
    }
  }
}
