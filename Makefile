# Every committed result anew, from the data to the tables and figures of results/README.md:
#
#     make -j2 results
#
# It resumes: what is finished stays, and a study goes on at its last checkpoint. In the root lie, as folders or links:
# `cifar10` (the data set's parquet files), `imagenet-val` (folders of ImageNet's classes) and `weights`, which has
# `deit_tiny_patch16_224.pth` (timm's, saved as a file). Everything is computed in results/runs, which is not committed.
# Expected on two quiet cores: victims 5 hours, records 7 hours; each study says its share. `make -n results` lists it all.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PRIVBENCH ?= privbench
PYTHON ?= python
RUNS := results/runs
VICTIMS := $(RUNS)/victims
STUDIES := front claims updates training servers mixtures imagenet reference
PACKS := $(STUDIES:%=results/%.jsonl.gz)
# -j says how many processes run; each has one thread.
export OMP_NUM_THREADS := 1

.PHONY: help results inputs victims prices $(STUDIES:%=study-%) packs pages pictures notebooks

help:
	@sed -n '1,8s/^# \{0,1\}//p' Makefile

results: pages pictures notebooks

inputs:
	@for place in cifar10 imagenet-val weights/deit_tiny_patch16_224.pth; do \
	  [ -e $$place ] || { echo "$$place is missing in the root: put it there, or a link to it (see the head of Makefile)" >&2; exit 2; }; \
	done

# Victims by one short recipe: one for every defense that changes training, with its utility report, and three seeds for four.
victims: inputs
	$(PYTHON) -m benchmarks.train_all --parts utility --train cifar10/train-*.parquet --test cifar10/test-*.parquet \
	  --utility-epochs 4 --batch-size 64 --utility-learning-rate 7e-4 --utility-augmentation none \
	  --device cpu --workers 2 --cache $(VICTIMS)/data --output $(VICTIMS)
	for end in safetensors json; do \
	  cp $(VICTIMS)/utility-early/vit_mini_patch4_32.none.$$end $(VICTIMS)/epoch-1.$$end; \
	  cp $(VICTIMS)/utility-none-seed0/vit_mini_patch4_32.none.$$end $(VICTIMS)/epochs-4.$$end; \
	done

EVALUATE = $(PRIVBENCH) evaluate --data ./cifar10

# What victims can still do: the embedded ones beside those of the short recipe, under larger masks, under attack, and the
# position rows of MJP with and without its localisation loss.
prices: victims
	for defense in none no-pe naive-shuffle mjp; do \
	  $(EVALUATE) --defense $$defense --limit 10000 --measure jigsaw,positions --output $(RUNS)/front; \
	  $(EVALUATE) --defense $$defense --output $(RUNS)/reference; \
	done
	cp $(VICTIMS)/utility-*-seed*/utility--*.json $(RUNS)/front
	for defense in none mjp; do for ratio in 0.1 0.27 0.75 0.9 1; do \
	  $(EVALUATE) --defense $$defense --measure jigsaw --jigsaw mjp:mask_ratio=$$ratio --output $(RUNS)/claims; \
	done; done
	for defense in none stochastic-layers; do \
	  $(EVALUATE) --defense $$defense --weights $(VICTIMS)/utility-$$defense-seed0/vit_mini_patch4_32.$$defense.safetensors \
	    --limit 512 --draws 3 --measure attacks,corruptions --output $(RUNS)/claims; \
	done
	$(EVALUATE) --defense mjp --weights $(VICTIMS)/utility-mjp_mask_ratio_0.1-seed0/vit_mini_patch4_32.mjp.safetensors \
	  --measure jigsaw,positions --keep-positions --output $(RUNS)/positions
	cp $(RUNS)/positions/positions--*.safetensors results/positions/mjp.safetensors
	$(EVALUATE) --defense mjp:dal_weight=0 --weights $(VICTIMS)/utility-mjp_dal_weight_0-seed0/vit_mini_patch4_32.mjp.safetensors \
	  --measure jigsaw,positions --keep-positions --output $(RUNS)/positions-without-dal
	cp $(RUNS)/positions-without-dal/positions--*.safetensors results/positions/mjp-without-dal.safetensors
	cp $(RUNS)/positions/utility--*.json $(RUNS)/positions-without-dal/utility--*.json $(RUNS)/claims

# Victims that were trained by the short recipe are attacked in these.
study-front study-training: victims

$(STUDIES:%=study-%): study-%: inputs
	$(PRIVBENCH) sweep results/studies/$*.yaml --output $(RUNS)/$*

study-words: study-reference study-front
	for study in reference front; do $(PRIVBENCH) calibrate $(RUNS)/$$study; done
	$(PRIVBENCH) identify $(RUNS)/reference

packs: $(STUDIES:%=study-%) study-words prices
	for study in $(filter-out reference,$(STUDIES)); do \
	  $(PRIVBENCH) pack $(RUNS)/$$study --no-pictures --no-traces -o results/$$study.jsonl.gz; \
	done
	$(PRIVBENCH) pack $(RUNS)/reference -o results/reference.jsonl.gz

pages: packs
	$(PYTHON) -m benchmarks.result_tables results/README.md
	$(PRIVBENCH) leaderboard results/reference.jsonl.gz -o results/leaderboard.csv
	$(PRIVBENCH) leaderboard results/front.jsonl.gz -o results/front.csv
	$(PRIVBENCH) claims results/claims.yaml $(PACKS) results/papers.jsonl.gz -o results/claims.md
	$(PRIVBENCH) figure front results/front.jsonl.gz -o results/front.png
	$(PRIVBENCH) figure ablation results/claims.jsonl.gz -o results/ablation.png
	$(PRIVBENCH) figure mask-ratio results -o results/mask-ratio.png

# README's pictures, of embedded photos: what comes back step by step under four defenses, and two photos at 224 pixels.
pictures: inputs
	$(PRIVBENCH) run --defense none,no-pe,naive-shuffle,mjp --output $(RUNS)/photos
	$(PRIVBENCH) run --attack closed-form --adversary aware --model deit_tiny_patch16_224 --defense none,naive-shuffle,mjp \
	  --weights weights/deit_tiny_patch16_224.pth --indices 0,2 --output $(RUNS)/photos
	$(PRIVBENCH) pack $(RUNS)/photos -o results/photos.jsonl.gz

notebooks: packs pictures
	$(PYTHON) -m benchmarks.notebooks
