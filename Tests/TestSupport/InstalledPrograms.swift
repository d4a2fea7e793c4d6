// SPDX-License-Identifier: Apache-2.0
// Programs of the machine that tests run.

import Foundation

/// The path of an installed program, or a failure that says what to install.
package func installedProgram(_ name: String, package: String) throws -> String {
  for directory in ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin", "/sbin"]
  where FileManager.default.isExecutableFile(atPath: "\(directory)/\(name)") {
    return "\(directory)/\(name)"
  }
  throw HarnessError("\(name) is missing: scripts/install-dependencies test, or apt-get install \(package)")
}
