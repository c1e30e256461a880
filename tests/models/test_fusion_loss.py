"""Values and gradients of the loss equal those of the published code."""

import torch

from triplex_deploy.models.triplex import TriplexOutput, fusion_loss


def test_value_and_gradients_match_the_paper_era_code(golden, matches):
    reference = golden("loss")
    predictions = [reference[f"pred{i}"].requires_grad_() for i in range(4)]
    loss = fusion_loss(TriplexOutput(*predictions), reference["label"], float(reference["alpha"]))
    loss.backward()
    matches(loss, reference["loss_v1"])
    for i, prediction in enumerate(predictions):
        matches(prediction.grad, reference[f"grad_v1_pred{i}"])


def test_value_and_gradients_on_clamped_predictions_match_the_rewrite(golden, matches):
    reference = golden("loss")
    predictions = [reference[f"pred{i}"].requires_grad_() for i in range(4)]
    clamped = TriplexOutput(*(prediction.clamp(min=0) for prediction in predictions))
    loss = fusion_loss(clamped, reference["label"], float(reference["alpha"]))
    loss.backward()
    matches(loss, reference["loss_v2_on_clamped"])
    for i, prediction in enumerate(predictions):
        matches(prediction.grad, reference[f"grad_v2_pred{i}"])


def test_loss_by_hand():
    label, ones = torch.zeros(1, 1), torch.ones(1, 1)
    output = TriplexOutput(fusion=2 * ones, target=ones, neighbor=ones, global_=3 * ones)
    # 4 + (0.7*1 + 0.3*1) + (0.7*1 + 0.3*1) + (0.7*9 + 0.3*1)
    assert torch.isclose(fusion_loss(output, label, 0.3), torch.tensor(12.6))
