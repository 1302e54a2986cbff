import torch

from hypersd.evaluate import baselines, captions, frechet, measures, protocol, rows
from hypersd.evaluate.real import Real


def test_the_nearest_plan_is_chosen_and_all_are_reported():
    plans = protocol.at_steps(4, 5.0)
    assert len(plans) == 9
    best, far = baselines.choose(plans, lambda p: abs(p.settings.guidance_scale - 2) + (p.settings.sampler != "unipc"))
    assert (best.settings.guidance_scale, best.settings.sampler) == (2, "unipc")
    assert far[best.label] == 0
    assert len(far) == 9


def test_a_single_step_is_begun_lower_too():
    """From 800, as Hyper-SD's one-step network is; every guidance, and the reference sampler alone."""
    lower = [plan for plan in protocol.at_steps(1, 5.0) if plan.lower]
    assert [plan.settings.guidance_scale for plan in lower] == [1, 2, 5]
    assert {plan.sampler for plan in lower} == {"ddim from 800"}
    assert {plan.settings.sampler_settings["one_step"] for plan in lower} == {800}
    assert [plan.sampler for plan in protocol.at_evaluations(1, 5.0)][-1] == "ddim from 800"


def test_guidance_costs_two():
    assert protocol.teacher(5.0).evaluations == 50
    assert protocol.plan(4, "ddim").evaluations == 4
    assert {plan.evaluations for plan in protocol.at_evaluations(4, 5.0)} == {4}
    assert {plan.settings.steps for plan in protocol.at_evaluations(4, 5.0)} == {2, 4}
    assert {plan.settings.guidance_scale for plan in protocol.at_evaluations(1, 5.0)} == {1}


def test_the_best_on_the_toy_is_the_one_whose_gain_is_nearest():
    """On Gaussian data every solver is a gain; at 8 steps UniPC's .3903 is nearest to the teacher's .4555."""
    from hypersd.bases.toy import Toy
    from hypersd.draw.pipeline import Drawer
    from hypersd.evaluate.sets import draw

    drawer = Drawer(Toy(0.5, device="cpu"))

    def latents(plan, first):
        images = draw(drawer, [""] * 64, list(range(first, first + 64)), plan.settings)
        return images[:, 0].reshape(-1, 1)

    reference = latents(protocol.teacher(5.0), 0)
    far = lambda plan: frechet.distance(latents(plan, 1000), reference)  # noqa: E731
    best, found = baselines.choose([protocol.plan(8, s) for s in protocol.BASELINE_SAMPLERS], far)
    assert best.settings.sampler == "unipc"
    spread = float(reference.std() / torch.tensor(0.4555))
    assert abs(found[best.label] - ((0.3903 - 0.4555) * spread) ** 2) < 1e-3


def test_the_nearest_is_seen_with_few_pictures():
    """Though they are of few captions, and the reference of all: the plain distance is taken in."""
    own = captions.paired(250, 500)

    def normal(count, seed):
        return torch.randn(count, 80, generator=torch.Generator().manual_seed(seed))

    def pictures(spread, shift, number):
        return {"features": spread * normal(250, 0)[own] + shift + 0.5 * normal(500, number)}

    real = Real(normal(400, 1), normal(400, 1))
    ruler = measures.Ruler(pictures(1.0, 0.0, 2), real, torch.zeros(0, 8), torch.zeros(0, 8, dtype=torch.long), own)
    near, alike = protocol.plan(4, "ddim", 5.0), protocol.plan(4, "ddim")  # the second draws all captions alike
    drawn = {near.label: pictures(1.0, 0.2, 3), alike.label: pictures(0.6, 0.0, 4)}

    def few(plan, count):
        return {"features": drawn[plan.label]["features"][:count]}

    def above(plan):
        return ruler.above("fd_teacher", ruler.basis.project(few(plan, 500)["features"]), ruler.of_teacher)

    def plain(plan):
        mine, all_captions = ruler.basis.project(few(plan, 64)["features"]), ruler.of_teacher
        ends = (values for s in (mine, all_captions) for values in (s.mean(0), frechet.covariance(s)))
        return frechet.gaussian_distance(*ends)

    assert above(near) < 0.5 * above(alike)
    assert baselines.choose([alike, near], lambda plan: ruler.far(few(plan, rows.selected(500))))[0] == near
    assert baselines.choose([alike, near], plain)[0] == alike
