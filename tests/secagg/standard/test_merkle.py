"""The Merkle tree: a slow twin of RFC 6962 with its known roots, forged proofs, and every wrong argument."""

from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import labels
from secagg.errors import ParameterError, VerificationError
from secagg.standard.merkle import HASH_BYTES, MAXIMUM_LEAVES, Tree, verify_path

LEAVES = [bytes([index]) * (index % 5) for index in range(40)]

# The test data of Certificate Transparency's reference implementation: eight leaves, and the roots of the
# first one, two, three ... of them, under the prefixes of RFC 6962 (0 for a leaf, 1 for a node).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

Prefixes = tuple[bytes, bytes]
RFC_6962_PREFIXES = (b"\x00", b"\x01")


def our_prefixes(count: int) -> Prefixes:
    return labels.MERKLE_LEAF, labels.MERKLE_NODE + count.to_bytes(8, "big")


def slow_root(leaves: list[bytes], prefixes: Prefixes) -> bytes:
    """MTH of RFC 6962, section 2.1."""
    leaf, node = prefixes
    if len(leaves) == 1:
        return sha256(leaf + leaves[0]).digest()
    split = largest_power_of_two_below(len(leaves))
    left, right = slow_root(leaves[:split], prefixes), slow_root(leaves[split:], prefixes)
    return sha256(node + left + right).digest()


def slow_path(index: int, leaves: list[bytes], prefixes: Prefixes) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    split = largest_power_of_two_below(len(leaves))
    if index < split:
        return [*slow_path(index, leaves[:split], prefixes), slow_root(leaves[split:], prefixes)]
    return [*slow_path(index - split, leaves[split:], prefixes), slow_root(leaves[:split], prefixes)]


def largest_power_of_two_below(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)


def refuses(match: str = "", **changed: object) -> None:
    """A valid proof with one argument changed is refused."""
    tree = Tree(LEAVES)
    arguments: dict[str, object] = {
        "root": tree.root,
        "leaf": LEAVES[7],
        "index": 7,
        "count": len(LEAVES),
        "path": tree.path(7),
    }
    verify_path(arguments.pop("root"), **arguments)  # type: ignore[arg-type]
    arguments |= {"root": tree.root} | changed
    with pytest.raises(VerificationError, match=match):
        verify_path(arguments.pop("root"), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", range(1, 9))
def test_the_twin_has_the_roots_of_certificate_transparency(count: int) -> None:
    assert slow_root(CT_LEAVES[:count], RFC_6962_PREFIXES).hex() == CT_ROOTS[count - 1]


@pytest.mark.parametrize("count", range(1, len(LEAVES) + 1))
def test_roots_and_paths_are_those_of_the_twin(count: int) -> None:
    leaves = LEAVES[:count]
    tree = Tree(leaves)
    assert tree.root == slow_root(leaves, our_prefixes(count))
    for index in range(count):
        path = tree.path(index)
        assert list(path) == slow_path(index, leaves, our_prefixes(count))
        assert len(path) <= (count - 1).bit_length()
        verify_path(tree.root, leaf=leaves[index], index=index, count=count, path=path)


def test_pinned_roots() -> None:
    assert Tree([b""]).root.hex() == "58798234d1dfd1142ff40254dcb0d2cd62747e84d4bc6f3fd2279daf62b46a79"
    assert Tree(CT_LEAVES).root.hex() == "07a4ae48077299d39d19698ac21d0d266e9418bd77ba5ed429417c5e63948f14"


@given(leaves=st.lists(st.binary(max_size=8), min_size=1, max_size=70), data=st.data())
def test_exactly_the_leaf_at_the_index_verifies(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    other = data.draw(st.integers(0, len(leaves) - 1))
    tree = Tree(leaves)
    verify_path(tree.root, leaf=leaves[index], index=index, count=len(leaves), path=tree.path(index))
    if leaves[other] != leaves[index]:
        with pytest.raises(VerificationError):
            verify_path(tree.root, leaf=leaves[other], index=index, count=len(leaves), path=tree.path(index))


def test_a_large_tree() -> None:
    leaves = [index.to_bytes(4, "big") for index in range(20_001)]
    tree = Tree(leaves)
    for index in (0, 1, 12_345, 16_383, 16_384, 20_000):
        path = tree.path(index)
        assert len(path) <= 15
        verify_path(tree.root, leaf=leaves[index], index=index, count=len(leaves), path=path)
    assert len(tree.path(20_000)) < len(tree.path(0))


def test_order_and_every_leaf_and_their_number_change_the_root() -> None:
    roots = {Tree(LEAVES[:count]).root for count in range(1, len(LEAVES) + 1)}
    for index in range(len(LEAVES)):
        roots.add(Tree([*LEAVES[:index], b"another", *LEAVES[index + 1 :]]).root)
    roots.add(Tree(LEAVES[::-1]).root)
    # A list that ends with its last leaf twice is another list (the flaw of trees that repeat an odd node).
    roots.add(Tree([*LEAVES[:39], LEAVES[38]]).root)
    assert len(roots) == 2 * len(LEAVES) + 2


def test_tampered_arguments() -> None:
    tree = Tree(LEAVES)
    path = tree.path(7)
    refuses("not at this index", leaf=b"another")
    refuses("not at this index", root=bytes(HASH_BYTES))
    refuses("not at this index", index=8)
    refuses("not at this index", index=6)
    refuses("not at this index", count=len(LEAVES) - 1)
    refuses("outside the list", index=len(LEAVES))
    refuses("outside the list", index=-1)
    refuses("outside the list", count=0)
    refuses("outside the list", count=MAXIMUM_LEAVES + 1)
    refuses("wrong size", count=MAXIMUM_LEAVES)
    refuses("wrong size", path=path[:-1])
    refuses("wrong size", path=(*path, bytes(HASH_BYTES)))
    refuses("wrong size", path=())
    refuses("wrong size", path=(*path[:-1], path[-1][:-1]))
    refuses("wrong size", path=(*path[:-1], path[-1] + b"\x00"))
    refuses("not at this index", path=path[::-1])
    refuses("not at this index", root=tree.root[:-1])
    for height in range(len(path)):
        for bit in range(8 * HASH_BYTES):
            flipped = (int.from_bytes(path[height], "big") ^ 1 << bit).to_bytes(HASH_BYTES, "big")
            with pytest.raises(VerificationError, match="not at this index"):
                verify_path(
                    tree.root,
                    leaf=LEAVES[7],
                    index=7,
                    count=len(LEAVES),
                    path=(*path[:height], flipped, *path[height + 1 :]),
                )


def fold(node: bytes, path: list[bytes], index: int, hash_node: Callable[[bytes], bytes]) -> bytes:
    """A verifier of full trees with any hash of a node."""
    for sibling in path:
        node = hash_node(sibling + node if index & 1 else node + sibling)
        index >>= 1
    return node


def test_a_node_does_not_pass_for_a_leaf() -> None:
    def plain(data: bytes) -> bytes:
        return sha256(data).digest()

    # Without labels, a leaf made of two hashes is the node above them: the shorter list has the same root.
    a, b, c, d = (plain(leaf) for leaf in (b"a", b"b", b"c", b"d"))
    root = plain(plain(a + b) + plain(c + d))
    forged_leaf = a + b
    assert fold(plain(forged_leaf), [plain(c + d)], 0, plain) == root

    tree = Tree([b"a", b"b", b"c", b"d"])
    hashes = [sha256(labels.MERKLE_LEAF + leaf).digest() for leaf in (b"a", b"b")]
    for forged in (b"".join(hashes), labels.MERKLE_NODE + b"".join(hashes)):
        for count in (2, 3):
            with pytest.raises(VerificationError):
                verify_path(tree.root, leaf=forged, index=0, count=count, path=tree.path(0)[1:])


def test_a_proof_speaks_of_one_place_in_one_list() -> None:
    # With the prefixes of RFC 6962, the third of three leaves passes for the second of two.
    leaves = [b"a", b"b", b"c"]
    leaf_prefix, node_prefix = RFC_6962_PREFIXES
    path = slow_path(2, leaves, RFC_6962_PREFIXES)
    root = slow_root(leaves, RFC_6962_PREFIXES)
    claimed = fold(
        sha256(leaf_prefix + b"c").digest(), path, 1, lambda data: sha256(node_prefix + data).digest()
    )
    assert claimed == root

    tree = Tree(leaves)
    accepted = []
    for count in range(1, 20):
        for index in range(count):
            try:
                verify_path(tree.root, leaf=b"c", index=index, count=count, path=tree.path(2))
            except VerificationError:
                continue
            accepted.append((index, count))
    assert accepted == [(2, 3)]


@pytest.mark.parametrize("leaves", [[], ()])
def test_no_leaves(leaves: list[bytes]) -> None:
    with pytest.raises(ParameterError, match="at least one"):
        Tree(leaves)


@pytest.mark.parametrize("leaf", ["leaf", bytearray(b"leaf"), memoryview(b"leaf"), None, 7])
def test_wrong_leaf(leaf: object) -> None:
    with pytest.raises(ParameterError, match="a leaf is of type"):
        Tree([b"a", leaf])  # type: ignore[list-item]


@pytest.mark.parametrize("index", [-1, 40, True, 1.0, "1", None])
def test_wrong_index(index: object) -> None:
    with pytest.raises(ParameterError, match="index is"):
        Tree(LEAVES).path(index)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["root", "leaf", "path"])
@pytest.mark.parametrize("value", ["x" * 32, bytearray(32), memoryview(bytes(32)), None, 7])
def test_wrong_type_of_bytes(name: str, value: object) -> None:
    arguments: dict[str, object] = {"leaf": b"a", "index": 0, "count": 2, "path": (bytes(32),)}
    root = value if name == "root" else bytes(32)
    if name != "root":
        arguments[name] = (value,) if name == "path" else value
    with pytest.raises(ParameterError, match="is of type"):
        verify_path(root, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["index", "count"])
@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_wrong_type_of_numbers(name: str, value: object) -> None:
    arguments: dict[str, object] = {"leaf": b"a", "index": 0, "count": 2, "path": (bytes(32),)}
    with pytest.raises(ParameterError, match="are ints"):
        verify_path(bytes(32), **arguments | {name: value})  # type: ignore[arg-type]
