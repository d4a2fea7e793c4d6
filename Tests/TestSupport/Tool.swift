// SPDX-License-Identifier: Apache-2.0
// allocsctl and allocsd as the tests start them.

import Foundation

package enum Tool {
  /// Runs allocsctl to its end. Without a socket no server is found: it maps the segments in `directory` itself.
  package static func control(
    _ arguments: [String], in directory: TestDirectory, socket: String? = nil, input: String? = nil
  ) throws -> Outcome {
    try ChildProcess.run(
      [Installation.path(of: "allocsctl")] + arguments,
      environment: ["ALLOCS_DIR": directory.path, "ALLOCS_SOCKET": socket ?? directory.file("none.sock")], input: input)
  }

  /// An output without ages, which grow: two runs are compared without them.
  package static func withoutAges(_ output: String) -> String {
    output.replacingOccurrences(
      of: #""(age|oldest|newest)_seconds":[0-9.e+-]+"#, with: #""$1_seconds":0"#, options: .regularExpression)
  }

  /// An output without ages, and without the other times that grow from one moment to the next.
  package static func withoutTimes(_ output: String) -> String {
    withoutAges(output).replacingOccurrences(
      of: #""(uptime_seconds|started)":[0-9.e+-]+"#, with: "", options: .regularExpression)
  }

  /// The objects of an answer in JSON lines.
  package static func objects(_ output: String) throws -> [[String: Any]] {
    try output.split(separator: "\n").map {
      guard let object = try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] else {
        throw HarnessError("not a JSON object: \($0)")
      }
      return object
    }
  }
}
