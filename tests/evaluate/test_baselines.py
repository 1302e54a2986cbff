from hypersd.evaluate import baselines, protocol


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
    import torch

    from hypersd.bases.toy import Toy
    from hypersd.draw.pipeline import Drawer
    from hypersd.evaluate import frechet
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
