// SPDX-License-Identifier: Apache-2.0
// The test programs, compiled when a test first needs them, warnings as errors.

import Foundation
import Synchronization
import TestSupport

enum Programs {
  private static let built = Mutex<[String: String]>([:])
  private static let directory = Result { try TestDirectory() }

  /// The path of a program built from a file in Programs; `options` come after the file, so they may name libraries.
  static func path(_ source: String, options: [String] = []) throws -> String {
    // Held while compiling: two tests that want one program build it once.
    try built.withLock { built in
      let key = ([source] + options).joined(separator: " ")
      if let path = built[key] { return path }
      let target = try directory.get().file("\(built.count)-\((source as NSString).deletingPathExtension)")
      let outcome = try ChildProcess.run(command(for: source, target: target) + options, patience: 300)
      guard outcome.ending == .exit(0) else {
        throw HarnessError("\(source) does not compile: \(outcome.output)\(outcome.errors)")
      }
      built[key] = target
      return target
    }
  }

  private static func command(for source: String, target: String) -> [String] {
    let file = Self.source(source)
    // -fno-builtin, or the compiler would take calls away whose blocks are not used; what it warns of are the edges.
    let flags = [
      "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-alloc-size-larger-than", "-Wno-use-after-free",
      "-fno-builtin", "-pthread",
    ]
    switch (source as NSString).pathExtension {
    case "c": return ["cc", "-std=gnu17"] + flags + [file, "-o", target]
    case "cpp": return ["c++", "-std=c++17"] + flags + [file, "-o", target]
    case "rs": return ["rustc", "-O", "-g", "-D", "warnings", file, "-o", target]
    case "swift": return ["swiftc", "-O", "-g", "-warnings-as-errors", file, "-o", target]
    default: return ["cp", file, target]
    }
  }

  /// The path of a source file, for programs that are interpreted.
  static func source(_ name: String) -> String {
    "\(Installation.packageDirectory)/Tests/EndToEndTests/Programs/\(name)"
  }
}
