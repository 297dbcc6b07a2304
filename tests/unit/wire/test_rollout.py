from hypothesis import given
from hypothesis import strategies as st
from marram.wire.rollout import Plan, Rollout, place

NEW, OLD = "a" * 64, "b" * 64


def plan(sha256: str, **fields: object) -> Plan:
    return Plan(f"m/{sha256[:3]}.marram", sha256, "salt", **fields)  # type: ignore[arg-type]


@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_all_of_a_smaller_one(device: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    if plan(NEW, share=small).includes(device, ()):
        assert plan(NEW, share=large).includes(device, ())


def test_a_share_holds_about_so_many_and_all_is_all() -> None:
    names = [f"device-{number}" for number in range(4000)]
    assert 150 < sum(plan(NEW, share=0.05).includes(name, ()) for name in names) < 250
    assert all(plan(NEW, share=1.0).includes(name, ()) for name in names)
    assert not any(plan(NEW).includes(name, ()) for name in names)
    assert place("salt", "device-1") != place("other", "device-1")


def test_groups_and_names_join_a_share() -> None:
    one = plan(NEW, groups=("ward", "till"), devices=("press-7",))
    assert one.includes("x", {"till"})
    assert one.includes("press-7", ())
    assert not one.includes("x", {"press-7"})


def test_the_newest_plan_that_includes_the_device_counts() -> None:
    rollout = Rollout("m", (plan(NEW, groups=("canary",)), plan(OLD, share=1.0)))
    assert rollout.assigned("x", {"canary"}, "") == rollout.plans[0]
    assert rollout.assigned("x", (), "") == rollout.plans[1]
    assert Rollout("m").assigned("x", (), "") is None


def test_a_paused_plan_holds_those_that_run_it_and_takes_no_others() -> None:
    rollout = Rollout("m", (plan(NEW, share=1.0, paused=True), plan(OLD, share=1.0)))
    assert rollout.assigned("x", (), NEW) == rollout.plans[0]
    assert rollout.assigned("x", (), OLD) == rollout.plans[1]


def test_what_is_revoked_is_nobodys() -> None:
    rollout = Rollout("m", (plan(NEW, share=1.0), plan(OLD, share=1.0)), (NEW,))
    assert rollout.assigned("x", (), NEW) == rollout.plans[1]
