// Where the binaries under test are.

import Foundation
import Testing

/// What keeps a test from doing its work, in the words of whoever must put it right.
struct HarnessError: Error, CustomStringConvertible {
  var description: String
  init(_ description: String) { self.description = description }
}

/// The built products. Nothing is built here: a missing binary is a failure that says what to run.
enum Installation {
  static let agent = "liballocs_agent.so"

  /// The directory with liballocs_agent.so, allocsctl and allocsd: $ALLOCS_BIN_DIR, else the release build of this
  /// package.
  static let directory: Result<String, HarnessError> = {
    if let named = ProcessInfo.processInfo.environment["ALLOCS_BIN_DIR"] { return .success(named) }
    do {
      let outcome = try ChildProcess.run(
        ["swift", "build", "--package-path", packageDirectory, "-c", "release", "--show-bin-path"])
      let path = outcome.output.trimmingCharacters(in: .whitespacesAndNewlines)
      guard outcome.ending == .exit(0), !path.isEmpty else {
        return .failure(HarnessError("swift build --show-bin-path failed: \(outcome.errors)"))
      }
      return .success(path)
    } catch {
      return .failure(HarnessError("swift build --show-bin-path could not be run: \(error)"))
    }
  }()

  static let testsDirectory = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .path
  static let packageDirectory = URL(fileURLWithPath: testsDirectory).deletingLastPathComponent()
    .deletingLastPathComponent().path

  /// The full path of a product.
  static func path(of product: String) throws -> String {
    let path = try directory.get() + "/" + product
    guard FileManager.default.fileExists(atPath: path) else {
      throw HarnessError(
        "\(path) is missing: run `swift build -c release --static-swift-stdlib` first, or name the directory of the"
          + " binaries with ALLOCS_BIN_DIR")
    }
    return path
  }

  /// What runs a program under the agent, its index in `directory`; `below` are libraries preloaded after the agent.
  static func agentEnvironment(_ directory: String, below: String? = nil) throws -> [String: String] {
    let preload = try [path(of: agent)] + (below.map { [$0] } ?? [])
    return ["LD_PRELOAD": preload.joined(separator: ":"), "ALLOCS_DIR": directory]
  }
}

/// An allocator that the agent may have below it.
enum Allocator: String, CaseIterable, Sendable, CustomTestStringConvertible {
  case glibc, jemalloc, tcmalloc, mimalloc

  /// The library that is preloaded, or linked; nil for the C library itself.
  var library: String? {
    switch self {
    case .glibc: nil
    case .jemalloc: "libjemalloc.so.2"
    case .tcmalloc: "libtcmalloc_minimal.so.4"
    case .mimalloc: "libmimalloc.so.2.0"
    }
  }
  /// How a module that is this allocator begins.
  var modulePrefix: String {
    switch self {
    case .glibc: "libc.so"
    case .jemalloc: "libjemalloc"
    case .tcmalloc: "libtcmalloc"
    case .mimalloc: "libmimalloc"
    }
  }
  var testDescription: String { rawValue }

  /// Fails, with what to install, if the library is not on this machine.
  func require() throws {
    guard let library else { return }
    let places = [
      "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib", "/usr/lib64",
    ]
    guard places.contains(where: { FileManager.default.fileExists(atPath: "\($0)/\(library)") }) else {
      throw HarnessError(
        "\(library) is missing: apt-get install libjemalloc2 libtcmalloc-minimal4 libmimalloc2.0")
    }
  }
}
