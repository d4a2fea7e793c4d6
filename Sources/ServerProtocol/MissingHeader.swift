// SPDX-License-Identifier: Apache-2.0
// The header of an answer whose form has no place for what the index lacks: a file of another program.

/// `Allocs-Missing: 12 blocks are not in the index`, left out where nothing is missing.
public enum MissingHeader {
  public static let name = "Allocs-Missing"
}
