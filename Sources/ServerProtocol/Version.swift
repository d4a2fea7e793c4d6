// SPDX-License-Identifier: Apache-2.0
// The version of the programs of this package: the file VERSION at the top, which scripts/build-kit reads, too. The
// first heading of CHANGELOG.md names the same version; a test compares them (VersionTests).

/// What `--version` prints.
public let allocsVersion = String(decoding: PackageResources.VERSION, as: UTF8.self).filter { !$0.isNewline }
