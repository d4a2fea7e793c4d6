// SPDX-License-Identifier: Apache-2.0
// The allocators that the agent may have below it in a test.

import Foundation
import TestSupport
import Testing

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
