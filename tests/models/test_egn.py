"""EGN: how exemplars are found, how they change a prediction, and the loss."""

import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.models import networks
from triplex_deploy.errors import ConfigError
from triplex_deploy.models.egn import (
    Egn,
    ExemplarBridge,
    Exemplars,
    PatchEmbedding,
    ResidualAttentionPool,
    correlation_loss,
)
from triplex_deploy.models.spot_model import assert_eval

GENES, FEATURES, DIM, K = 6, 12, 32, 3
TINY = {
    "n_genes": GENES,
    "feature_dim": FEATURES,
    "dim": DIM,
    "depth": 4,
    "heads": 4,
    "mlp_dim": 48,
    "bridge_heads": 2,
    "bridge_head_dim": 8,
}


def random(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny_egn(**options: Any) -> Egn:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return networks.egn(**{**TINY, **options}).eval()


def spots(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tokens, frozen features, and the features and expression of exemplars."""
    return (
        random(count, 49, DIM, seed=1),
        random(count, FEATURES, seed=2),
        random(count, K, FEATURES, seed=3),
        random(count, K, GENES, seed=4),
    )


def test_the_recommended_setting_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = networks.egn()
    assert sum(weight.numel() for weight in model.parameters()) == 135_503_162


def test_a_token_is_a_linear_map_of_its_patch_in_channel_row_column_order() -> None:
    encoder = PatchEmbedding(4)
    images = random(1, 3, 224, 224)
    patch = images[0, :, 32:64, 64:96].flatten()  # row 1, column 2
    weight, bias = encoder.projection.weight.flatten(1), encoder.projection.bias
    assert bias is not None
    tokens = encoder(images)
    assert tokens.shape == (1, 49, 4)
    torch.testing.assert_close(tokens[0, 7 * 1 + 2], weight @ patch + bias, rtol=0, atol=1e-5)


def test_forward_is_the_encoder_and_the_prediction_from_its_tokens() -> None:
    model, images = tiny_egn(), random(2, 3, 224, 224)
    _, *beside = spots(2)
    with torch.no_grad():
        expected = model.predict_from_tokens(model.encode_targets(images), *beside)
        assert torch.equal(model(images, *beside), expected)
    assert expected.shape == (2, GENES)


def test_the_order_of_the_exemplars_does_not_matter() -> None:
    model, (tokens, features, around, expression) = tiny_egn(), spots(2)
    order = [2, 0, 1]
    with torch.no_grad():
        straight = model.predict_from_tokens(tokens, features, around, expression)
        shuffled = model.predict_from_tokens(
            tokens, features, around[:, order], expression[:, order]
        )
    torch.testing.assert_close(straight, shuffled, rtol=0, atol=1e-6)


def test_what_an_exemplar_expresses_reaches_the_prediction_of_its_spot_alone() -> None:
    model, (tokens, features, around, expression) = tiny_egn(), spots(3)
    changed = expression.clone()
    changed[1, 0] += 1
    with torch.no_grad():
        before = model.predict_from_tokens(tokens, features, around, expression)
        after = model.predict_from_tokens(tokens, features, around, changed)
    assert (before - after).abs().amax(1)[1] > 1e-3
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]], rtol=0, atol=1e-6)


def test_where_a_patch_lies_matters() -> None:
    model, (tokens, *beside) = tiny_egn(), spots(1)
    with torch.no_grad():
        model.position.normal_(generator=torch.Generator().manual_seed(8))
        difference = model.predict_from_tokens(tokens, *beside) - model.predict_from_tokens(
            tokens.flip(1), *beside
        )
    assert difference.abs().max() > 1e-3


def test_a_spot_is_predicted_the_same_alone_and_in_a_batch() -> None:
    model, batch = tiny_egn(), spots(4)
    with torch.no_grad():
        together = model.predict_from_tokens(*batch)
        alone = model.predict_from_tokens(*(part[2:3] for part in batch))
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-6)


def test_evaluation_is_deterministic_with_dropout_configured() -> None:
    model, batch = tiny_egn(dropout=0.5), spots(2)
    assert_eval(model)
    with torch.no_grad():
        assert torch.equal(model.predict_from_tokens(*batch), model.predict_from_tokens(*batch))


def test_the_unread_position_does_not_matter_and_the_others_do() -> None:
    model, batch = tiny_egn(), spots(2)
    model.predict_from_tokens(*batch).sum().backward()
    gradient = model.position.grad
    assert gradient is not None
    assert torch.equal(gradient[49], torch.zeros(DIM))
    assert bool((gradient[:49].abs().amax(1) > 0).all())


def test_a_prediction_follows_its_equations() -> None:
    model, batch = tiny_egn(), spots(2)
    with torch.no_grad():
        for weight in model.parameters():  # none so small that it could be left out
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(9)))
        ours, expected = model.predict_from_tokens(*batch), _predict_by_hand(model, *batch)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def _predict_by_hand(model: Any, x: Tensor, e: Tensor, e_j: Tensor, y_j: Tensor) -> Tensor:
    """Return the prediction by the equations in their order, with the model's own bridges."""
    position = model.position[:49]
    q = model.projector.query(e)[:, None]
    keys = model.projector.key(torch.cat([e_j, y_j], 2))
    for block in model.projector.blocks:
        q, keys = (part + block.mlp(block.norm(part)) for part in (q, keys))
    x = x + position
    for number, layer in enumerate(model.layers, start=1):
        x = x + layer.attention(layer.attention_norm(x + position))
        if number in (2, 4):
            x, q, keys = layer.bridge(x, q, keys, model.value(y_j))
        x = x + layer.mlp(layer.mlp_norm(x))
    expression: Tensor = model.head(torch.cat([model.pool(x), q[:, 0]], 1))
    return expression


@pytest.mark.parametrize("bridge_query", ["old", "updated"])
@pytest.mark.parametrize("gate_input", ["key", "query"])
def test_a_bridge_follows_its_equations(bridge_query: str, gate_input: str) -> None:
    heads, width, length = 2, 3, 5
    bridge = ExemplarBridge(8, heads, width, length, bridge_query, gate_input)
    tokens, query = random(1, length, 8, seed=1), random(1, 1, 8, seed=2)
    keys, values = random(1, K, 8, seed=3), random(1, K, 8, seed=4)
    with torch.no_grad():
        ours = bridge(tokens, query, keys, values)
        expected = _bridge_by_hand(bridge, tokens[0], query[0, 0], keys[0], values[0])
    for ours_part, part in zip(ours, expected, strict=True):
        torch.testing.assert_close(ours_part.flatten(), part.flatten(), rtol=0, atol=1e-6)


def _bridge_by_hand(
    bridge: ExemplarBridge, x: Tensor, q: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result of a bridge by its equations, one spot, exemplar and head at a time."""
    informed, new_keys = q.clone(), []
    for key, value in zip(keys, bridge.value(values), strict=True):
        pair = (q - key, key) if bridge.gate_input == "key" else (q, q - key)
        for_query, for_key = bridge.gates(torch.cat(pair)).chunk(2)
        informed = informed + torch.sigmoid(for_query) * value / len(keys)
        new_keys.append(bridge.key_norm(key + torch.sigmoid(for_key) * value))
    scale = torch.sigmoid(bridge.token_gates(bridge.query_norm(informed)))  # head by head
    channels = bridge.channels(bridge.token_norm(x))
    width = channels.shape[1] // bridge.heads
    bridged = torch.empty_like(channels)
    for head in range(bridge.heads):
        for token in range(len(x)):
            own = slice(head * width, (head + 1) * width)
            bridged[token, own] = channels[token, own] * scale[head * len(x) + token]
    base = informed if bridge.bridge_query == "updated" else q
    new_query = base + bridge.to_query.weight @ bridged.mean(0)
    return x + bridged @ bridge.to_tokens.weight.T, new_query, torch.stack(new_keys)


def test_pooling_adds_half_of_what_each_channel_attends_to() -> None:
    pool = ResidualAttentionPool(1)
    with torch.no_grad():
        pool.projection.weight.fill_(1)
        pool.projection.bias.zero_()
        pooled = pool(torch.tensor([[[0.0], [10.0]]]))
    # mean 5; weights 1/(1+e) and e/(1+e), of which half of 10 e/(1+e) = 3.655293
    assert pooled.item() == pytest.approx(5 + 3.655293, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bridge_query": "new"}, "bridge_query='new'"),
        ({"gate_input": "value"}, "gate_input='value'"),
        ({"depth": 1}, "depth=1"),
        ({"heads": 5}, "heads=5: must divide dim=32"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_egn(**options)


def test_twenty_spots_are_learnt_by_heart() -> None:
    model = tiny_egn().train()
    images, labels = random(20, 3, 224, 224), random(20, GENES, seed=6)
    _, *beside = spots(20)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=3e-3, fused=True)
    for _ in range(40):
        predicted = model(images, *beside)
        optimizer.zero_grad()
        correlation_loss(predicted, labels).backward()
        optimizer.step()
    assert [weight for weight in weights if weight.grad is None] == []
    assert float((predicted.detach() - labels).square().mean()) < 0.1 * float(labels.var())


def test_the_nearest_by_distance_are_retrieved_nearest_first() -> None:
    # the last row has the largest product with the spot, and is far from it
    bank = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 2.0], [9.0, 0.0]])
    expression = torch.tensor([[10.0], [30.0], [22.0], [90.0]])
    features, labels = Exemplars(bank, expression, 2)(torch.tensor([[2.5, 0.1], [8.0, 0.0]]))
    assert features.tolist() == [[[3.0, 0.0], [1.0, 0.0]], [[9.0, 0.0], [3.0, 0.0]]]
    assert labels.tolist() == [[[30.0], [10.0]], [[90.0], [30.0]]]


def test_near_spots_are_told_apart_however_far_all_are_from_zero() -> None:
    generator = np.random.default_rng(4)
    bank = (100 + generator.normal(size=(200, 16))).astype(np.float32)
    spot = (100 + generator.normal(size=(20, 16))).astype(np.float32)
    distances = ((spot[:, None].astype(float) - bank.astype(float)) ** 2).sum(2)
    nearest = distances.argsort(1)[:, :9]
    features, _ = Exemplars(torch.from_numpy(bank), torch.zeros(200, 1))(torch.from_numpy(spot))
    np.testing.assert_array_equal(features.numpy(), bank[nearest])


def test_retrieval_is_float32_under_autocast() -> None:
    retrieve, features = Exemplars(random(40, FEATURES), random(40, GENES)), random(5, FEATURES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        closeness = retrieve.closeness(features)
    assert closeness.dtype == torch.float32
    assert torch.equal(closeness, retrieve.closeness(features))


def test_a_bank_that_has_just_enough_spots_is_retrieved_whole() -> None:
    bank = random(K, FEATURES)
    features, labels = Exemplars(bank, random(K, GENES), K)(random(2, FEATURES, seed=6))
    assert features.shape == (2, K, FEATURES)
    assert labels.shape == (2, K, GENES)
    torch.testing.assert_close(features[0].sum(0), bank.sum(0))


def test_a_replaced_bank_is_the_one_retrieved_from() -> None:
    retrieve = Exemplars(torch.zeros(2, 1), torch.zeros(2, 1), 1)
    state = {"bank_features": torch.tensor([[5.0], [7.0]]), "bank_expression": torch.eye(2)[:, :1]}
    retrieve.load_state_dict(state)
    features, labels = retrieve(torch.tensor([[5.9]]))
    assert (features.item(), labels.item()) == (5.0, 1.0)


@pytest.mark.parametrize("n_exemplars", [0, 5])
def test_more_exemplars_than_the_bank_holds_are_refused(n_exemplars: int) -> None:
    with pytest.raises(ConfigError, match="the bank has 4 spots; use 1 to 4"):
        Exemplars(torch.zeros(4, 2), torch.zeros(4, 1), n_exemplars)


def test_a_bank_with_unequal_halves_is_refused() -> None:
    with pytest.raises(ConfigError, match="4 rows of features and 3 of expression"):
        Exemplars(torch.zeros(4, 2), torch.zeros(3, 1), 2)


LABELS = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]])


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        (LABELS, 0.0),
        (LABELS + 2, 4.0),  # a shift costs its square alone
        (LABELS.flip(0), 5 / 3 + 0.5 * 1.25),  # r = -1 and 1/2
        (LABELS * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, 2.0]), 1 / 3 + 0.25),
    ],
)
def test_the_loss_is_squared_error_and_half_the_lack_of_correlation(
    predicted: Tensor, expected: float
) -> None:
    assert float(correlation_loss(predicted, LABELS)) == pytest.approx(expected, abs=1e-6)


def test_the_weight_of_correlation_is_free() -> None:
    assert float(correlation_loss(-LABELS, LABELS, weight=0.0)) == pytest.approx(4 * 19 / 6)
    assert float(correlation_loss(-LABELS, LABELS, weight=1.0)) == pytest.approx(4 * 19 / 6 + 2)


@pytest.mark.parametrize("spots_in_batch", [1, 3])
def test_a_constant_prediction_has_a_finite_loss_and_gradient(spots_in_batch: int) -> None:
    predicted = torch.full((spots_in_batch, 2), 0.5, requires_grad=True)
    loss = correlation_loss(predicted, LABELS[:spots_in_batch])
    loss.backward()
    assert predicted.grad is not None
    assert bool(torch.isfinite(predicted.grad).all())
    expected = (0.5 - LABELS[:spots_in_batch]).square().mean() + 0.5
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_half_precision_predictions_have_the_loss_of_full_ones() -> None:
    predicted = LABELS * torch.tensor([0.5, 0.0])  # the second gene is constant
    halves = correlation_loss(predicted.half(), LABELS.half())
    assert halves.dtype == torch.float32
    assert halves.item() == pytest.approx(correlation_loss(predicted, LABELS).item(), abs=1e-6)


class _Head(nn.Module):
    def __init__(self, model: Egn) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, features: Tensor, around: Tensor, labels: Tensor) -> Tensor:
        return self.model.predict_from_tokens(tokens, features, around, labels)


def _exported(module: nn.Module, inputs: Sequence[Tensor]) -> onnxruntime.InferenceSession:
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            verbose=False,
        )
    assert program is not None
    buffer = io.BytesIO(program.model_proto.SerializeToString())
    return onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])


def _pieces(count: int) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    bank = random(40, FEATURES, seed=7), random(40, GENES, seed=8)
    return {
        "target_encoder": (tiny_egn().target_encoder, (random(count, 3, 224, 224),)),
        "retrieval": (Exemplars(*bank, n_exemplars=9), (random(count, FEATURES),)),
        "head": (_Head(tiny_egn(depth=2)), spots(count)),
    }


@pytest.mark.parametrize("piece", ["target_encoder", "retrieval", "head"])
def test_an_exported_piece_agrees_at_any_batch(piece: str) -> None:
    session = _exported(*_pieces(3)[piece])
    names = [tensor.name for tensor in session.get_inputs()]
    for count in (1, 5):
        module, inputs = _pieces(count)[piece]
        with torch.no_grad():
            outputs = module.eval()(*inputs)
        expected = outputs if isinstance(outputs, tuple) else (outputs,)
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        for ours, reference in zip(session.run(None, feed), expected, strict=True):
            np.testing.assert_allclose(ours, reference.numpy(), rtol=0, atol=1e-5)
