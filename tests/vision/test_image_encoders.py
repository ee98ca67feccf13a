"""Encoders of images: shapes, sizes known from elsewhere, files of weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from vit_files import dinov2_tensors, siglip_tensors

from robot_rl.errors import InputError
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import ImageEncoder, build_encoder
from robot_rl.networks.vision.pixels import folded, scaled, with_coordinates
from robot_rl.networks.vision.pooling import Average, SpatialEmbeddings, SpatialSoftmax
from robot_rl.networks.vision.weights import load_weights, save_weights

STRIDED: dict[str, Any] = {"channels": [8, 16], "kernels": [3, 3], "strides": [2, 2], "padding": True}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=generator(seed), dtype=torch.uint8)


def size(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize(
    ("config", "features"),
    [
        (VisionConfig(), 32 * 25 * 25),  # DrQ's: 64 -> 31 -> 29 -> 27 -> 25
        (VisionConfig(**STRIDED), 16 * 16 * 16),
        (VisionConfig(**STRIDED, pooling="average", layer_norm=True, activation="silu"), 16),
        (VisionConfig(**STRIDED, pooling="spatial_softmax", coordinates=True), 32),
        (VisionConfig(**STRIDED, pooling="spatial_embeddings", embeddings=5), 80),
        (VisionConfig(kind="impala", channels=[16, 32, 32]), 32 * 8 * 8),
        (VisionConfig(kind="resnet18", pooling="average"), 512),
        (VisionConfig(kind="resnet50", pooling="average", pixels="signed"), 2048),
        (VisionConfig(kind="resnet18", resize=32, pooling="none"), 512),
    ],
)
def test_an_encoder_gives_the_features_that_it_says(config: VisionConfig, features: int) -> None:
    encoder, fingerprint = build_encoder(config, (64, 64, 3), generator())
    assert encoder.features == features
    assert encoder(pictures(2, 64, 64, 3)).shape == (2, features)
    assert fingerprint is None
    if config.pooling != "none":
        assert encoder.maps(pictures(2, 64, 64, 3)).shape[1:] == encoder.map_shape


@pytest.mark.parametrize("kind", ["cnn", "impala", "resnet18"])
def test_weights_follow_from_the_generator_alone(kind: str) -> None:
    encoders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        encoders.append(ImageEncoder(VisionConfig(kind=kind, pooling="spatial_embeddings"), (64, 64, 3), generator()))
    first, second = (each.state_dict() for each in encoders)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_resnet_34_critic_with_film_has_the_published_size() -> None:
    """V-GPS: 25.6 M parameters; its two heads are MLPs of 256 units on the mean features and seven action channels."""
    config = VisionConfig(kind="resnet34", coordinates=True, pixels="signed", pooling="average")
    encoder = ImageEncoder(config, (64, 64, 3), generator(), condition_size=512)
    heads = [nn.Sequential(nn.Linear(512 + 7, 256), nn.Linear(256, 256), nn.Linear(256, 1)) for _ in range(2)]
    total = size(encoder) + sum(map(size, heads))
    assert abs(total - 25.56e6) < 0.01e6
    films = size(encoder) - size(ImageEncoder(config, (64, 64, 3), generator()))
    assert films == 2 * 513 * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512)  # behind each of 16 blocks: W1, W2, two biases


@pytest.mark.parametrize(("kind", "millions"), [("resnet18", 11.18), ("resnet34", 21.28), ("resnet50", 23.51)])
def test_resnets_have_the_size_of_the_original_without_its_classifier(kind: str, millions: float) -> None:
    encoder = ImageEncoder(VisionConfig(kind=kind, pooling="average"), (64, 64, 3), generator())
    assert size(encoder) == pytest.approx(millions * 1e6, rel=1e-3)


@pytest.mark.parametrize("kind", ["cnn", "impala", "resnet18"])
def test_a_condition_changes_nothing_before_it_is_learned_and_something_after(kind: str) -> None:
    config = VisionConfig(kind=kind, pooling="average")
    encoder = ImageEncoder(config, (64, 64, 3), generator(), condition_size=3)
    images, condition = pictures(4, 64, 64, 3), torch.randn(4, 3, generator=generator())
    plain = encoder(images, torch.zeros(4, 3))
    torch.testing.assert_close(encoder(images, condition), plain, rtol=0, atol=0)
    encoder(images, condition).square().mean().backward()
    with torch.no_grad():
        for each in encoder.parameters():
            each.add_(1e-3 * each.grad.sign())
    assert (encoder(images, condition) - encoder(images, torch.zeros(4, 3))).abs().max() > 1e-3
    with pytest.raises(ValueError, match="condition_size=3"):
        encoder(images)


@pytest.mark.parametrize(
    ("kind", "black", "white"),
    [("centered", -0.5, 0.5), ("unit", 0.0, 1.0), ("signed", -1.0, 1.0), ("imagenet", -0.485 / 0.229, 0.515 / 0.229)],
)
def test_bytes_become_what_the_settings_say_and_stay_bytes(kind: str, black: float, white: float) -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 6, 1, 1)
    assert scaled(images, kind)[:, 3, 0, 0].tolist() == pytest.approx([black, white], abs=1e-6)
    numbers = images.float()
    scaled(numbers, kind)
    assert numbers.max() == 255


def test_frames_become_channels_the_oldest_first() -> None:
    images = pictures(2, 3, 8, 8, 3)
    channels = folded(images)
    assert channels.shape == (2, 9, 8, 8)
    for frame in range(3):
        assert torch.equal(channels[:, 3 * frame : 3 * frame + 3], images[:, frame].permute(0, 3, 1, 2))


@pytest.mark.parametrize("padding", [False, True])
def test_frames_deep_are_frames_as_channels(padding: bool) -> None:
    """On a CPU the first convolution takes the frames where they lie; the numbers and gradients are the same."""
    config = VisionConfig(channels=[8, 4], kernels=[3, 3], strides=[2, 1], padding=padding)
    encoder = ImageEncoder(config, (3, 16, 16, 3), generator()).double()
    images = pictures(4, 3, 16, 16, 3)
    assert encoder.deep
    gradients = []
    for deep in (True, False):
        encoder.deep = deep
        encoder.zero_grad()
        features = encoder(images)
        features.square().mean().backward()
        gradients.append([features.detach(), *(each.grad.clone() for each in encoder.parameters())])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


def test_frames_apart_are_encoded_as_if_they_were_alone() -> None:
    config = VisionConfig(**STRIDED, frames="apart")
    encoder = ImageEncoder(config, (3, 16, 16, 3), generator())
    alone = ImageEncoder(config, (16, 16, 3), generator())
    images = pictures(2, 3, 16, 16, 3)
    features = encoder(images)
    assert features.shape == (2, encoder.features) == (2, 3 * alone.features)
    torch.testing.assert_close(features, torch.cat([alone(images[:, k]) for k in range(3)], 1))


def test_coordinates_run_from_minus_one_to_one() -> None:
    x = with_coordinates(torch.zeros(1, 3, 5, 3))
    assert x[0, 3].tolist() == [[-1.0, 0.0, 1.0]] * 5  # column
    assert x[0, 4, :, 0].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]  # row


def test_the_poolings_worked_out() -> None:
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 0, 2] = 50.0  # the upper right corner alone
    torch.testing.assert_close(SpatialSoftmax((1, 3, 3))(x), torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(Average((1, 3, 3))(x), torch.tensor([[50.0 / 9]]))
    pool = SpatialEmbeddings((1, 3, 3), 2, generator())
    torch.testing.assert_close(pool(x), 50.0 * pool.weight[:, 2])  # (1, 2): the weights of place 2


@pytest.mark.parametrize("kind", ["cnn", "resnet18"])
def test_half_precision_is_of_the_products_alone(kind: str) -> None:
    images = pictures(4, 64, 64, 3)
    whole, half = (
        ImageEncoder(VisionConfig(kind=kind, pooling="average", precision=precision), (64, 64, 3), generator())
        for precision in ("float32", "bfloat16")
    )
    features = half(images)
    assert features.dtype == torch.float32
    assert not torch.equal(features, whole(images))
    torch.testing.assert_close(features, whole(images), rtol=0.1, atol=0.05)
    features.square().mean().backward()
    whole(images).square().mean().backward()
    for name, each in half.named_parameters():
        wanted = dict(whole.named_parameters())[name].grad
        assert each.dtype == each.grad.dtype == torch.float32
        assert float(nn.functional.cosine_similarity(each.grad.flatten(), wanted.flatten(), dim=0)) > 0.98, name


def test_images_too_small_for_the_trunk_are_refused() -> None:
    with pytest.raises(InputError, match="8 x 8 are too small"):
        ImageEncoder(VisionConfig(), (8, 8, 3), generator())


# Files ----------------------------------------------------------------------------------------------------------------
def test_a_file_gives_back_the_encoder_and_its_fingerprint(tmp_path: Path) -> None:
    config = VisionConfig(**STRIDED, pooling="spatial_embeddings")
    encoder = ImageEncoder(config, (32, 32, 3), generator())
    save_weights(encoder, tmp_path / "encoder.safetensors", trained="icvf")
    config = replace(config, weights=str(tmp_path / "encoder.safetensors"))
    other, fingerprint = build_encoder(config, (32, 32, 3), generator(9))
    images = pictures(2, 32, 32, 3)
    assert torch.equal(encoder(images), other(images))
    assert fingerprint is not None
    assert fingerprint.parts == ("trunk", "pool")
    assert len(fingerprint.sha256) == 64


def test_another_pool_begins_at_random_and_the_fingerprint_says_so(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_weights(ImageEncoder(VisionConfig(**STRIDED), (32, 32, 3), generator()), path)
    config = VisionConfig(**STRIDED, pooling="spatial_embeddings", weights=str(path))
    _, fingerprint = build_encoder(config, (32, 32, 3), generator(9))
    assert fingerprint is not None
    assert fingerprint.parts == ("trunk",)


def test_a_wrong_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    encoder = ImageEncoder(VisionConfig(**STRIDED), (32, 32, 3), generator())
    with pytest.raises(InputError, match="nothing is downloaded"):
        load_weights(encoder, path)
    path.write_bytes(b"not tensors")
    with pytest.raises(InputError, match="no safetensors file"):
        load_weights(encoder, path)
    save_weights(encoder, path)
    with pytest.raises(InputError, match="another trunk"):
        build_encoder(VisionConfig(weights=str(path)), (32, 32, 3), generator())


def test_bytes_scaled_otherwise_than_in_pre_training_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_weights(ImageEncoder(VisionConfig(**STRIDED), (32, 32, 3), generator()), path)
    with pytest.raises(InputError, match="other features of the same image"):
        build_encoder(VisionConfig(**STRIDED, pixels="signed", weights=str(path)), (32, 32, 3), generator())


# Transformers ---------------------------------------------------------------------------------------------------------
def vit(path: Path, **settings: Any) -> ImageEncoder:
    config = VisionConfig(kind="vit", weights=str(path), pixels="imagenet", resize=28, **settings)
    return build_encoder(config, (32, 32, 3), generator())[0]


def test_a_dinov2_file_is_read_and_frozen(tmp_path: Path) -> None:
    path = tmp_path / "dinov2.safetensors"
    for registers in (0, 4):
        save_file(dinov2_tensors(registers=registers), path)
        encoder = vit(path)
        features = encoder(pictures(2, 32, 32, 3))
        assert features.shape == (2, 12)
        assert not any(each.requires_grad for each in encoder.parameters())


def test_a_transformer_worked_out_by_hand(tmp_path: Path) -> None:
    """One block of one head, written out in plain matrix products."""
    path = tmp_path / "dinov2.safetensors"
    tensors = dinov2_tensors(depth=1)
    save_file(tensors, path)
    encoder = vit(path).double()
    images = pictures(1, 28, 28, 3)
    t = {key: value.double() for key, value in tensors.items()}
    mean, deviation = (torch.tensor(each).double() for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = ((images[0].double() / 255 - mean) / deviation).permute(2, 0, 1)
    patches = [
        (x[:, 14 * r : 14 * r + 14, 14 * c : 14 * c + 14] * t["patch_embed.proj.weight"]).sum((1, 2, 3))
        for r in range(2)
        for c in range(2)
    ]
    tokens = torch.stack(patches) + t["patch_embed.proj.bias"]
    x = torch.cat([t["cls_token"][0], tokens]) + t["pos_embed"][0]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]

    b = "blocks.0."
    q, k, v = (norm(x, b + "norm1") @ t[b + "attn.qkv.weight"].T + t[b + "attn.qkv.bias"]).chunk(3, 1)
    attended = (q @ k.T / 12**0.5).softmax(1) @ v
    x = x + t[b + "ls1.gamma"] * (attended @ t[b + "attn.proj.weight"].T + t[b + "attn.proj.bias"])
    hidden = nn.functional.gelu(norm(x, b + "norm2") @ t[b + "mlp.fc1.weight"].T + t[b + "mlp.fc1.bias"])
    x = x + t[b + "ls2.gamma"] * (hidden @ t[b + "mlp.fc2.weight"].T + t[b + "mlp.fc2.bias"])
    scaled = ((images.permute(0, 3, 1, 2).double() / 255) - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    torch.testing.assert_close(encoder.trunk(scaled)[0], norm(x, "norm")[0], rtol=1e-9, atol=1e-9)


def test_the_names_of_transformers_give_the_same_features(tmp_path: Path) -> None:
    meta = dinov2_tensors()
    hugging: dict[str, torch.Tensor] = {}
    for key, value in meta.items():
        if ".attn.qkv." in key:
            block, kind = key.split(".")[1], key.split(".")[-1]
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                hugging[f"encoder.layer.{block}.attention.attention.{name}.{kind}"] = part.clone()
            continue
        key = key.replace(".attn.proj.", ".attention.output.dense.").replace("blocks.", "encoder.layer.")
        key = key.replace(".ls1.gamma", ".layer_scale1.lambda1").replace(".ls2.gamma", ".layer_scale2.lambda1")
        key = key.replace("patch_embed.proj.", "embeddings.patch_embeddings.projection.")
        key = key.replace("cls_token", "embeddings.cls_token").replace("pos_embed", "embeddings.position_embeddings")
        key = "layernorm." + key.removeprefix("norm.") if key.startswith("norm.") else key
        hugging[key.replace("mask_token", "embeddings.mask_token")] = value
    hugging.pop("embeddings.mask_token")
    save_file(meta, tmp_path / "meta.safetensors")
    save_file(hugging, tmp_path / "hugging.safetensors")
    images = pictures(2, 32, 32, 3)
    assert torch.equal(vit(tmp_path / "meta.safetensors")(images), vit(tmp_path / "hugging.safetensors")(images))


def test_a_siglip_file_is_read_under_both_names(tmp_path: Path) -> None:
    timm = siglip_tensors()
    hugging: dict[str, torch.Tensor] = {}
    for key, value in timm.items():
        if ".attn.qkv." in key:
            block, kind = key.split(".")[1], key.split(".")[-1]
            for name, part in zip("qkv", value.chunk(3), strict=True):
                hugging[f"vision_model.encoder.layers.{block}.self_attn.{name}_proj.{kind}"] = part.clone()
            continue
        key = key.replace(".attn.proj.", ".self_attn.out_proj.").replace("blocks.", "encoder.layers.")
        key = key.replace(".norm1.", ".layer_norm1.").replace(".norm2.", ".layer_norm2.")
        key = key.replace("patch_embed.proj.", "embeddings.patch_embedding.")
        key = "post_layernorm." + key.removeprefix("norm.") if key.startswith("norm.") else key
        key = key.replace("attn_pool.latent", "head.probe").replace("attn_pool.norm.", "head.layernorm.")
        key = key.replace("attn_pool.proj.", "head.attention.out_proj.").replace("attn_pool.mlp.", "head.mlp.")
        hugging[f"vision_model.{key}"] = value
    for kind in ("weight", "bias"):
        parts = [hugging.pop(f"vision_model.attn_pool.{name}.{kind}") for name in ("q", "kv")]
        hugging[f"vision_model.head.attention.in_proj_{kind}"] = torch.cat(parts)
    hugging["vision_model.embeddings.position_embedding.weight"] = hugging.pop("vision_model.pos_embed")[0].clone()
    hugging["logit_scale"] = torch.zeros(1)
    save_file(timm, tmp_path / "timm.safetensors")
    save_file(hugging, tmp_path / "hugging.safetensors")
    images = pictures(2, 32, 32, 3)
    assert torch.equal(vit(tmp_path / "timm.safetensors")(images), vit(tmp_path / "hugging.safetensors")(images))
    assert vit(tmp_path / "timm.safetensors", pooling="average")(images).shape == (2, 12)


def test_patches_that_do_not_divide_the_image_are_refused(tmp_path: Path) -> None:
    save_file(dinov2_tensors(), tmp_path / "dinov2.safetensors")
    config = VisionConfig(kind="vit", weights=str(tmp_path / "dinov2.safetensors"))
    with pytest.raises(InputError, match="patches of 14 pixels"):
        build_encoder(config, (32, 32, 3), generator())
    with pytest.raises(InputError, match="needs weights"):
        VisionConfig(kind="vit")
    save_file({"something": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no DINOv2 or SigLIP"):
        vit(tmp_path / "other.safetensors")
