"""Write where the user's own files lie: none may be lost."""

from __future__ import annotations

from tests.field.attacks.common import attack
from tests.field.child import (
    Verdict,
    both,
    check,
    done,
    refused,
)
from tests.field.kit import (
    Kit,
)


@attack("N6", "slide called manifest.tif, predicted twice")
def _n6(kit: Kit) -> Verdict:
    path = kit.small("manifest.tif")
    return both(done(kit.predict(path, "--all-tiles")), done(kit.predict(path, "--all-tiles")))


@attack("L7", "evaluate --out over the user's own files")
def _l7(kit: Kit) -> Verdict:
    own = {name: f"my {name}".encode() for name in ("m.json", "m.png")}
    for name, content in own.items():
        (kit.folder / name).write_bytes(content)
    outcome = kit.run(
        "evaluate",
        kit.prediction,
        "--truth",
        kit.demo / "truth.h5ad",
        "--out",
        kit.folder / "m.json",
    )
    kept = all((kit.folder / name).read_bytes() == content for name, content in own.items())
    return both(check(kept, f"kept: {kept}"), refused(outcome))


@attack("L8", "prepare --out where prepared.json is another program's")
def _l8(kit: Kit) -> Verdict:
    out = kit.folder / "prepared"
    out.mkdir()
    (out / "prepared.json").write_text('{"mine": 1}')
    outcome = kit.prepare(kit.sections("A1", "B1"), "--format", "st", out=out)
    kept = (out / "prepared.json").is_file()
    kept = kept and (out / "prepared.json").read_text() == '{"mine": 1}'
    return both(check(kept, f"kept: {kept}"), refused(outcome))


@attack("L10", "bench --json over the user's own file")
def _l10(kit: Kit) -> Verdict:
    path = kit.folder / "b.json"
    path.write_text('{"mine": 1}')
    outcome = kit.run("bench", kit.bundle, "--json", path, limit_s=30)
    kept = path.read_text() == '{"mine": 1}'
    return both(check(kept, f"kept: {kept}"), refused(outcome))


@attack("L11", "export --force over a folder with another program's manifest.json")
def _l11(kit: Kit) -> Verdict:
    web = kit.folder / "web"
    web.mkdir()
    (web / "manifest.json").write_text('{"name": "my web app"}')
    (web / "thesis.txt").write_text("years of work")
    outcome = kit.run("export", kit.demo / "checkpoint.ckpt", "--out", web, "--force", limit_s=120)
    kept = (web / "thesis.txt").is_file()
    return both(check(kept, f"thesis.txt kept: {kept}"), refused(outcome))
