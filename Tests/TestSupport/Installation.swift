// SPDX-License-Identifier: Apache-2.0
// Where the binaries under test are.

import Foundation

/// The reason why a test can't do its work, in words for the person who puts it right.
package struct HarnessError: Error, CustomStringConvertible {
  package var description: String
  package init(_ description: String) { self.description = description }
}

/// The built products. Nothing is built here: a missing binary is a failure that says what to run.
package enum Installation {
  package static let agent = "liballocs_agent.so"

  /// The directory with liballocs_agent.so, allocsctl and allocsd: $ALLOCS_BIN_DIR, else the release build of this
  /// package.
  package static let directory: Result<String, HarnessError> = {
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

  /// Where Package.swift is: this file is Tests/TestSupport/Installation.swift below it.
  package static let packageDirectory = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path

  /// The full path of a product.
  package static func path(of product: String) throws -> String {
    let path = try directory.get() + "/" + product
    guard FileManager.default.fileExists(atPath: path) else {
      throw HarnessError(
        "\(path) is missing: run `swift build -c release --static-swift-stdlib` first, or name the directory of the"
          + " binaries with ALLOCS_BIN_DIR")
    }
    return path
  }

  /// The environment of a program under the agent, its index in `directory`; `below`: libraries preloaded after the
  /// agent.
  package static func agentEnvironment(_ directory: String, below: String? = nil) throws -> [String: String] {
    let preload = try [path(of: agent)] + (below.map { [$0] } ?? [])
    return ["LD_PRELOAD": preload.joined(separator: ":"), "ALLOCS_DIR": directory]
  }

  /// The full path of a program that the package builds beside the tests, for them.
  package static func testProgram(_ name: String) throws -> String {
    let runner = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
    for place in [runner, CommandLine.arguments[0]] {
      let path = (place as NSString).deletingLastPathComponent + "/" + name
      if FileManager.default.isExecutableFile(atPath: path) { return path }
    }
    throw HarnessError("\(name) is missing beside the tests: build them with `swift build --build-tests`")
  }
}
